"""Panel History: `log`, `show`, `status` read the ledger. Only `show --answers` needs a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.options import OpenStore, open_store
from lifelong_edit.cli.text import (
    DONE,
    counted,
    entry_document,
    facts_lines,
    full_text,
    ids_in,
    init_lines,
    listed,
    number,
    one_line,
    print_result,
    statement,
    summary,
    table,
)
from lifelong_edit.errors import RequestError
from lifelong_edit.escapes import printable
from lifelong_edit.store import Entry, FactLife, History, list_strays
from lifelong_edit.store.history import entry_called, entry_named, find_fact, tags_of
from lifelong_edit.tracking.unsaid import unsaid


def log(
    store: options.StorePath = options.STORE,
    oneline: Annotated[bool, typer.Option("--oneline", help="A line an entry.")] = False,
    max_count: Annotated[int | None, typer.Option("--max-count", "-n", min=0, help="Only so many entries.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the entries, the newest first: seq, digest, kind, tags, who, when, why.

    Example: lifelong-edit log --oneline -n 10
    """
    with open_store(store) as seen:
        tags, entries = tags_of(seen.entries), seen.entries[::-1][:max_count]
    if oneline:
        text = "\n".join(one_line(entry, tags) for entry in entries)
    else:
        text = "\n\n".join(full_text(entry, tags) for entry in entries)
    print_result(as_json, [entry_document(entry, tags) for entry in entries], text)


def status(
    store: options.StorePath = options.STORE,
    facts: Annotated[bool, typer.Option("--facts", help="List every fact ever written, with its status.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show the store's head, how many facts are active, which are not said, the last entry, and files nobody needs.

    The head's digest, kept elsewhere, lets `verify --head` prove later that nothing up to it was changed.

    Example: lifelong-edit status --facts
    """
    with open_store(store) as seen:
        strays, written, config = list_strays(seen.store), seen.format, seen.entries[0].body["config"]
    counts = Counter(fact.status for fact in seen.history.facts.values())
    tags, silent = tags_of(seen.entries), unsaid(seen.entries, seen.history.active)
    document = {
        "store": store,
        "format": written,
        "head": entry_document(seen.head, tags),
        "facts": {name: counts[name] for name in ("active", "reverted", "superseded")},
        "protected": sum(fact.protected for fact in seen.history.active.values()),
        "unsaid": silent,
        "tags": {name: seq for seq, names in tags.items() for name in names},
        "fingerprint": seen.entries[0].body["fingerprint"],
        "config": config,
        **{name: seen.entries[0].body.get(name) for name in ("profile", "known")},
        "strays": {"files": len(strays), "bytes": sum(stray.size for stray in strays)},
        **({"list": list(seen.history.facts.values())} if facts else {}),
    }
    print_result(as_json, document, _status_text(seen, document) + (_facts_text(seen, silent) if facts else ""))


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
    """Show the whole life of a fact, or everything about an entry; without a name, about the newest.

    A fact has its request, its changes with who, when and why, whether the model said it when last asked, and its
    scores over time; with --answers also what the model said before it, at each change and now, and its residual.

    Example: lifelong-edit show db853e71 --answers --model checkpoints/tiny-world
    """
    with open_store(store) as seen:
        fact = None if entry or name is None else _fact(seen, name)
    if fact is None:
        found = seen.head if name is None else entry_named(seen.entries, name, "entry" if entry else "fact or entry")
        tags = tags_of(seen.entries)
        document = {"digest": found.digest, "tags": tags.get(found.seq, []), "body": found.body}
        return print_result(as_json, document, _entry_text(seen, found))
    # Only the answers need a model: each is asked of the state after its entry.
    life, residual = life_of(seen.entries, fact), None
    if answers:
        if model is None:
            raise RequestError("The answers are the model's. Give its folder: --model, or LIFELONG_EDIT_MODEL.")
        with options.open_reader(store, model, dtype, device) as reader:
            life = [replace(event, says=reader.at(event.seq).answer(fact.question)) for event in life]
            residual = reader.residuals().get(fact.id)
    value, scores = value_of(seen.entries, seen.history, fact), scores_of(seen.entries, fact)
    silent = unsaid(seen.entries, seen.history.active).get(fact.id)
    life_document = {
        "fact": fact,
        "unsaid": silent,
        "value": value,
        "residual": residual,
        "life": life,
        "scores": scores,
    }
    print_result(as_json, life_document, fact_text(fact, value, life, scores, residual, silent))


def _fact(seen: OpenStore, name: str) -> FactLife | None:
    """Find the fact called `name`. A whole id wins over an entry's seq or tag, these win over a shortened id."""
    if name not in seen.history.facts and entry_called(seen.entries, name) is not None:
        return None
    return find_fact(seen.history.facts, name)


def _entry_text(seen: OpenStore, entry: Entry) -> str:
    """Write out an entry: actor, time and reason, its facts, its digests, the software that made it."""
    then = History.of(seen.entries[: entry.seq + 1]).facts
    lines = [full_text(entry, tags_of(seen.entries)), *(init_lines(entry) if entry.kind == "init" else ()), ""]
    named = {"facts": DONE.get(entry.kind, "named"), "restored": "active again", "superseded": "superseded"}
    for name, told in named.items():
        lines += facts_lines([then[id] for id in ids_in(entry, name)], told)
    digests = {"entry": entry.digest, "record": entry.record, "weights": entry.weights}
    lines += [f"{name:8}{digest}" for name, digest in digests.items() if digest]
    versions = ", ".join(f"{name} {number}" for name, number in entry.body.get("versions", {}).items())
    return "\n".join([*lines, f"made with {printable(versions)}"])


def _status_text(seen: OpenStore, document: Mapping[str, Any]) -> str:
    facts, head, strays = document["facts"], seen.head, document["strays"]["files"]
    rows = {
        "store": f"{document['store']}, format {document['format']}",
        "settings": summary(seen.entries[0]),
        "base": "; ".join(init_lines(seen.entries[0])),
        "facts": ", ".join(f"{count} {name}" for name, count in facts.items()),
        "not said": f"{counted(len(silent), 'active fact')}: {listed(list(silent))}"
        if (silent := document["unsaid"])
        else "",
        "tags": listed(list(document["tags"])),
        "strays": f"{counted(strays, 'file')}; gc removes them" if strays else "none",
        "last entry": one_line(head, tags_of(seen.entries)).strip(),
        "made": f"{printable(head.time)} by {printable(head.body.get('actor'))}",
        "head": head.digest,
    }
    return "\n".join(f"{name:12}{told}" for name, told in rows.items() if told)


def _facts_text(seen: OpenStore, silent: Collection[str]) -> str:
    rows = [
        [
            fact.id,
            fact.seq,
            f"{fact.status}, not said" if fact.id in silent else fact.status,
            fact.since,
            statement(fact),
        ]
        for fact in seen.history.facts.values()
    ]
    return "\n\n" + table(rows, ["fact", "seq", "status", "since", "asks"])


@dataclass(frozen=True)
class Event:
    """A row of a fact's life: an entry that changed its status, or the first or newest entry, for before and now.

    `became` is the status after the entry, `says` the model's answer to the fact's prompt then, where it was asked.
    """

    seq: int
    kind: str
    became: str
    time: str
    actor: str | None
    reason: str | None
    says: str | None = None


@dataclass(frozen=True)
class Value:
    """The value of the fact's slot now: the entry that wrote it, the facts it was optimised for, loss and steps."""

    seq: int
    facts: tuple[str, ...]
    loss: float | None
    steps: int | None


@dataclass(frozen=True)
class LedgerScore:
    """A score of one fact in the ledger: entry, metric, value. The edit's own entry has one; `measure` adds others."""

    seq: int
    metric: str
    value: float | None


def scores_of(entries: Sequence[Entry], fact: FactLife) -> list[LedgerScore]:
    """Collect the fact's scores from the ledger, oldest first."""
    return [
        LedgerScore(entry.seq, metric, scores[fact.id])
        for entry in entries[fact.seq :]
        for metric, scores in entry.body.get("scores", {}).items()
        if fact.id in scores
    ]


def life_of(entries: Sequence[Entry], fact: FactLife) -> list[Event]:
    """Collect the entries that changed the fact, between the first entry and the newest."""
    events = [_event(entries[0], "not written")]
    for entry in entries[fact.seq :]:
        if became := _became(entry, fact.id):
            events.append(_event(entry, became))
    return events if events[-1].seq == entries[-1].seq else [*events, _event(entries[-1], f"{events[-1].became} now")]


def value_of(entries: Sequence[Entry], history: History, fact: FactLife) -> Value | None:
    """Find the value of the fact's slot; None when the fact is not active."""
    chain = history.chains().get(fact.slot, ()) if fact.status == "active" else ()
    if not chain:
        return None
    column = chain[-1]
    body: Mapping[str, Any] = entries[column.seq].body
    loss, steps = (body[name][column.index] if name in body else None for name in ("loss", "steps"))
    return Value(column.seq, tuple(sorted(column.facts)), loss, steps)


def fact_text(
    fact: FactLife,
    value: Value | None,
    life: Sequence[Event],
    scores: Sequence[LedgerScore],
    residual: float | None,
    silent: int | None,
) -> str:
    """Write out a fact: request and status, then its changes and its scores as tables.

    `silent` is the entry after which the model was last asked, where it did not say the fact.
    """
    by = f" by {fact.by}" if fact.by else ""
    rows: list[tuple[str, str | None]] = [
        ("fact", fact.id),
        ("asks", statement(fact)),
        ("ends with", repr(fact.request.end) if fact.request.end else None),
        ("messages", ", ".join(f"{role}: {content!r}" for role, content in fact.request.messages)),
        ("wordings", ", ".join(map(repr, fact.request.wordings))),
        ("before", fact.request.target_true),
        ("status", f"{fact.status}{by} since entry {fact.since}{', protected' if fact.protected else ''}"),
        ("not said", None if silent is None else f"when the model was last asked, at entry {silent}"),
        ("value", _value_text(fact, value)),
        ("residual", None if residual is None else f"{residual:.3f} of what was to change is missing, by prediction"),
        ("measured", _measured_by(fact)),
    ]
    asked = any(event.says is not None for event in life)
    headers = ["seq", "kind", "fact", "time", "actor", "reason"] + (["model says"] if asked else [])
    events = [[e.seq, e.kind, e.became, e.time[:19], e.actor, e.reason] + ([e.says] if asked else []) for e in life]
    lines = [*(f"{name:10}{printable(told)}" for name, told in rows if told), "", table(events, headers)]
    measured = [[one.seq, one.metric, "" if one.value is None else f"{one.value:g}"] for one in scores]
    return "\n".join([*lines, "", table(measured, ["seq", "metric", "score"])] if measured else lines)


def _event(entry: Entry, became: str) -> Event:
    return Event(entry.seq, entry.kind, became, entry.time, entry.body.get("actor"), entry.body.get("reason"))


def _became(entry: Entry, id: str) -> str | None:
    """The fact's status after an entry, or None when the entry does not name it."""
    if id in ids_in(entry, "superseded"):
        return "superseded"
    if id in ids_in(entry, "restored"):
        return "active"
    if id in ids_in(entry):
        return "reverted" if entry.kind == "revert" else "active"
    return None


def _value_text(fact: FactLife, value: Value | None) -> str | None:
    if value is None:
        return None
    shared = [id for id in value.facts if id != fact.id]
    optimised = "" if value.loss is None else f", loss {number(value.loss, '.3f')} after {value.steps} steps"
    return f"of entry {value.seq}{optimised}" + (f", shared with {listed(shared)}" if shared else "")


def _measured_by(fact: FactLife) -> str | None:
    """Count the texts that measure the edit, as ``2 paraphrase_prompts``; None when it has none."""
    fields = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
    counts = {name: len(getattr(fact.request, name)) for name in fields}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or None
