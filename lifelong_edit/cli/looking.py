"""Reading a store's history: `log`, `show`, `status`. Only `show --answers` needs a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.life import fact_text, life_of, scores_of, value_of
from lifelong_edit.cli.opening import Past, past
from lifelong_edit.cli.output import counted, listed, printable, table, tell
from lifelong_edit.cli.telling import (
    DONE,
    entry_document,
    full_text,
    ids_in,
    one_line,
    statement,
    summary,
    told_facts,
)
from lifelong_edit.errors import RequestError
from lifelong_edit.store import Entry, FactLife, History, list_strays
from lifelong_edit.store.history import entry_called, entry_named, find_fact, tags_of


def log(
    store: options.StorePath = options.STORE,
    oneline: Annotated[bool, typer.Option("--oneline", help="A line an entry.")] = False,
    max_count: Annotated[int | None, typer.Option("--max-count", "-n", min=0, help="Only so many entries.")] = None,
    as_json: options.Json = False,
) -> None:
    """What happened, the newest entry first: seq, digest, kind, tags, who, when, why.

    Example: lifelong-edit log --oneline -n 10
    """
    with past(store) as seen:
        tags, entries = tags_of(seen.entries), seen.entries[::-1][:max_count]
    if oneline:
        text = "\n".join(one_line(entry, tags) for entry in entries)
    else:
        text = "\n\n".join(full_text(entry, tags) for entry in entries)
    tell(as_json, [entry_document(entry, tags) for entry in entries], text)


def status(
    store: options.StorePath = options.STORE,
    facts: Annotated[bool, typer.Option("--facts", help="List every fact ever written, with its status.")] = False,
    as_json: options.Json = False,
) -> None:
    """Where the store stands: head, facts, last entry, and files that nobody needs.

    The head's digest, kept elsewhere, lets `verify --head` prove later that nothing up to it was changed.

    Example: lifelong-edit status --facts
    """
    with past(store) as seen:
        strays, written, config = list_strays(seen.store), seen.format, seen.entries[0].body["config"]
    counts = Counter(fact.status for fact in seen.history.facts.values())
    tags = tags_of(seen.entries)
    document = {
        "store": store,
        "format": written,
        "head": entry_document(seen.head, tags),
        "facts": {name: counts[name] for name in ("active", "reverted", "superseded")},
        "protected": sum(fact.protected for fact in seen.history.active.values()),
        "tags": {name: seq for seq, names in tags.items() for name in names},
        "fingerprint": seen.entries[0].body["fingerprint"],
        "config": config,
        "strays": {"files": len(strays), "bytes": sum(stray.size for stray in strays)},
        **({"list": list(seen.history.facts.values())} if facts else {}),
    }
    tell(as_json, document, _status_text(seen, document) + (_facts_text(seen) if facts else ""))


def show(
    name: Annotated[str | None, typer.Argument(help="A fact's id, or an entry's seq, tag or digest.")] = None,
    store: options.StorePath = options.STORE,
    entry: Annotated[bool, typer.Option("--entry", help="An entry is meant, also where a fact has this id.")] = False,
    answers: Annotated[
        bool,
        typer.Option("--answers", help="What the model says each time, and the predicted residual; needs --model."),
    ] = False,
    model: options.AnyModel = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """The whole life of a fact, or everything about an entry; without a name, about the newest.

    A fact: request, who, when and why, scores over time; with --answers what the model said before it, at each change
    and now, and how much of what was to change is missing by prediction.

    Example: lifelong-edit show db853e71 --answers --model checkpoints/tiny-world
    """
    with past(store) as seen:
        fact = None if entry or name is None else _fact(seen, name)
    if fact is None:
        found = seen.head if name is None else entry_named(seen.entries, name, "entry" if entry else "fact or entry")
        tags = tags_of(seen.entries)
        document = {"digest": found.digest, "tags": tags.get(found.seq, []), "body": found.body}
        return tell(as_json, document, _entry_text(seen, found))
    life, residual = life_of(seen.entries, fact), None
    if answers:
        if model is None:
            raise RequestError("The answers are the model's. Give its folder: --model, or LIFELONG_EDIT_MODEL.")
        with opening.reader(store, model, dtype, device) as reader:
            life = [replace(event, says=reader.at(event.seq).answer(fact.question)) for event in life]
            residual = reader.residuals().get(fact.id)
    value, scores = value_of(seen.entries, seen.history, fact), scores_of(seen.entries, fact)
    life_document = {"fact": fact, "value": value, "residual": residual, "life": life, "scores": scores}
    tell(as_json, life_document, fact_text(fact, value, life, scores, residual))


def _fact(seen: Past, name: str) -> FactLife | None:
    """The fact that is meant: its id goes before an entry's seq or tag, these before the beginning of an id."""
    if name not in seen.history.facts and entry_called(seen.entries, name) is not None:
        return None
    return find_fact(seen.history.facts, name)


def _entry_text(seen: Past, entry: Entry) -> str:
    """An entry with its facts and the digests it holds."""
    then = History.of(seen.entries[: entry.seq + 1]).facts
    lines = [full_text(entry, tags_of(seen.entries)), ""]
    named = {"facts": DONE.get(entry.kind, "named"), "restored": "active again", "superseded": "superseded"}
    for name, told in named.items():
        lines += told_facts([then[id] for id in ids_in(entry, name)], told)
    digests = {"entry": entry.digest, "record": entry.record, "weights": entry.weights}
    lines += [f"{name:8}{digest}" for name, digest in digests.items() if digest]
    versions = ", ".join(f"{name} {number}" for name, number in entry.body.get("versions", {}).items())
    return "\n".join([*lines, f"made with {printable(versions)}"])


def _status_text(seen: Past, document: Mapping[str, Any]) -> str:
    facts, head, strays = document["facts"], seen.head, document["strays"]["files"]
    rows = {
        "store": f"{document['store']}, format {document['format']}",
        "settings": summary(seen.entries[0]),
        "facts": ", ".join(f"{count} {name}" for name, count in facts.items()),
        "tags": listed(list(document["tags"])),
        "strays": f"{counted(strays, 'file')}; gc removes them" if strays else "none",
        "last entry": one_line(head, tags_of(seen.entries)).strip(),
        "made": f"{printable(head.time)} by {printable(head.body.get('actor'))}",
        "head": head.digest,
    }
    return "\n".join(f"{name:12}{told}" for name, told in rows.items() if told)


def _facts_text(seen: Past) -> str:
    rows = [[fact.id, fact.seq, fact.status, fact.since, statement(fact)] for fact in seen.history.facts.values()]
    return "\n\n" + table(rows, ["fact", "seq", "status", "since", "asks"])
