"""What commands print: values, facts, entries and commits, as text for people and as JSON for programs."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import typer
from tabulate import tabulate
from tqdm import tqdm

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.escapes import printable, printable_json, printable_lines
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import ADDING, Entry, FactLife
from lifelong_edit.tracking.unsaid import answers

if TYPE_CHECKING:
    from lifelong_edit.engine import Commit
    from lifelong_edit.engine.change.commit import BlastRadius, Shift

SHORT = 12  # hex digits of a digest, where it is only pointed at


def print_result(as_json: bool, document: Any, text: str) -> None:
    """Print a command's result: `document` as JSON, or `text`."""
    typer.echo(_json(document, indent=2) if as_json else printable_lines(text))


def print_line(text: str) -> None:
    """Print one line of a result that grows, above the progress bar when there is one."""
    with tqdm.external_write_mode(file=sys.stdout):
        typer.echo(printable_lines(text))


def json_line(document: Any) -> str:
    """Write a document as one line of JSON."""
    return _json(document)


def _json(document: Any, indent: int | None = None) -> str:
    return printable_json(json.dumps(jsonable(document), ensure_ascii=False, indent=indent))


def jsonable(value: Any) -> Any:
    """Turn a value into what JSON has: dataclasses into objects, paths into texts, infinity and NaN into null."""
    if isinstance(value, EditRequest):
        return value.to_dict()
    if is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, PathLike):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Lay out rows under headers; texts that look like numbers stay as they are."""
    cells = [[printable(cell) for cell in row] for row in rows]
    text: str = tabulate(cells, headers, disable_numparse=True)
    return text


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Join the first `limit` names by commas, and say how many more there are: ``a, b and 3 more``."""
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 fact``, ``2 facts``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number(value: float, spec: str) -> str:
    """The number as `format` writes it; one that rounds to zero has no sign, for that would be a sum's last bit."""
    text = format(value, spec)
    return text if re.search("[1-9]", text) else text.lstrip("-")


@contextmanager
def bar(unit: str, total: int | None = None) -> Iterator[Any]:
    """Show a progress bar on standard error; none when that is not a terminal."""
    with tqdm(total=total, unit=unit, disable=None) as shown:
        yield shown


@contextmanager
def progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, and give the callback (done, wanted) that the engine moves it by."""
    with bar(unit) as shown:

        def told(done: int, wanted: int) -> None:
            shown.total = wanted
            shown.update(done - shown.n)

        yield told


TOP = 10  # facts that a text shows of many
DONE = {
    "edit": "written",
    "replace": "written",
    "protect": "protected",
    "revert": "reverted",
    "restore": "restored",
    "relax": "given a lower ridge",
}


def statement(fact: FactLife) -> str:
    """A fact as question and target: ``'Ada Quill was born in' -> 'Marn'``."""
    return printable(f"{fact.question!r} -> {fact.request.target_new!r}")


def facts_lines(facts: Sequence[FactLife], told: str) -> list[str]:
    """A count (``2 facts written``) and the first few facts, one a line; empty when there are none."""
    lines = [f"  {printable(fact.id)}  {statement(fact)}" for fact in facts[:TOP]]
    more = [f"  and {len(facts) - TOP} more"] if len(facts) > TOP else []
    return [f"{counted(len(facts), 'fact')} {told}", *lines, *more] if facts else []


def ids_in(entry: Entry, name: str = "facts") -> list[str]:
    """The ids in one of an entry's lists of facts; empty when the entry has no such list."""
    named: Any = entry.body.get(name, ())
    return [fact if isinstance(fact, str) else fact["id"] for fact in named]


def failed_in(entry: Entry) -> set[str]:
    """The ids of the facts an entry wrote that do not hold right after it."""
    said = answers(entry) if entry.kind in ADDING else {}
    return {id for id in ids_in(entry) if said.get(id) is False}


def summary(entry: Entry) -> str:
    """Say in one line what an entry did: ``2 facts written: Ada Quill, Bo Lund``."""
    body = entry.body
    if entry.kind == "init":
        config = body["config"]
        layers = listed([str(number) for number in config["layers"]])
        return f"layers {layers}, {config['memory']} memory, {config['targets']} targets"
    if entry.kind == "tag":
        return printable(f"{body['tag']} names entry {body['target']}")
    if entry.kind == "measure":
        told = [
            f"{printable(name)} {mean:.3f} of {counted(facts, 'fact')}" for name, mean, facts in metric_means(entry)
        ]
        beside = [name for name in ("drift", "noise") if name in body]
        return ", ".join([*told, *beside]) or "no facts"
    # Entries that write hold their requests, those that revert or restore hold ids.
    named = [f["request"]["subject"] if isinstance(f, dict) else f for f in body.get("facts", ())]
    failed, held = failed_in(entry), "held" if entry.kind == "protect" else "said"
    told = [f"{counted(len(named), 'fact')} {DONE.get(entry.kind, 'named')}"] if named else []
    if failed:
        told = [f"{len(named) - len(failed)} of {counted(len(named), 'fact')} {held}"]
        named = [name for name, id in zip(named, ids_in(entry), strict=True) if id in failed]
    others = [f"{len(ids)} {name}" for name in ("restored", "superseded") if (ids := ids_in(entry, name))]
    back = [f"back to entry {body['to']}"] if "to" in body else []
    back += [f"withdrawn {seq}" for seq in body.get("withdrawn", ())]
    back += [f"reinstated {seq}" for seq in body.get("reinstated", ())]
    if entry.kind == "repair":
        told = ["all batches solved together"]
    told += [
        f"efficacy {was:.3f} to {now:.3f}" for name, (was, now) in body.get("effect", {}).items() if name == EFFICACY
    ]
    others += [f"not {held}"] if failed else []
    cost = ids_in(entry, "cost")
    lost = f"; {counted(len(cost), 'older fact')} said no longer: {listed(cost, 5)}" if cost else ""
    return ", ".join([*told, *others, *back]) + (f": {listed(named, 5)}" if named else "") + lost


def init_lines(entry: Entry) -> list[str]:
    """What the first entry says of the profile that was taken, and of what the base knows of the prompts given."""
    profile, known = entry.body.get("profile"), entry.body.get("known")
    lines = [f"settings by the profile {printable(profile['name'])} {profile['digest'][:SHORT]}"] if profile else []
    if known is None:
        return lines
    told = f"the base says {known['said']} of {counted(known['asked'], 'prompt')}"
    if not (known["probability"] and known["margin"]):
        return [*lines, told]
    (low, middle, high), (least, margin, most) = known["probability"], known["margin"]
    return [
        *lines,
        f"{told}: half of these with a probability of {low:.2f} to {high:.2f} (median {middle:.2f}), "
        f"{least:.1f} to {most:.1f} nats above anything else (median {margin:.1f})",
    ]


def metric_means(entry: Entry) -> list[tuple[str, float, int]]:
    """Each metric that an entry has scores of, with its mean over all cohorts and how many facts that are."""
    found: dict[str, list[tuple[float, int]]] = {}
    for row in entry.body.get("retention", ()):
        if row["value"] is not None and row["facts"] > 0:
            found.setdefault(row["metric"], []).append((row["value"], row["facts"]))
    facts = {name: sum(count for _, count in rows) for name, rows in found.items()}
    return [(name, sum(v * n for v, n in rows) / facts[name], facts[name]) for name, rows in found.items()]


def entry_document(entry: Entry, tags: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """An entry for --json, without its requests and hyper-parameters."""
    body = entry.body
    return {
        **{name: getattr(entry, name) for name in ("seq", "digest", "kind", "time")},
        **{name: body.get(name) for name in ("actor", "reason", "method", "record", "weights")},
        "tags": list(tags.get(entry.seq, ())),
        **{name: ids_in(entry, name) for name in ("facts", "superseded", "restored")},
        "summary": summary(entry),
    }


def one_line(entry: Entry, tags: Mapping[int, Sequence[str]]) -> str:
    """An entry as `log --oneline` shows it: seq, digest, kind, tags, what it did."""
    return f"{entry.seq:>4} {entry.digest[:SHORT]} {entry.kind:8}{tagged(entry, tags)} {summary(entry)}"


def full_text(entry: Entry, tags: Mapping[int, Sequence[str]]) -> str:
    """An entry as `log` shows it: like a commit in git's log."""
    reason = entry.body.get("reason")
    return "\n".join(
        [
            f"entry {entry.seq} {entry.digest[:SHORT]} {entry.kind}{tagged(entry, tags)}",
            f"Actor:  {printable(entry.body.get('actor'))}",
            f"Time:   {printable(entry.time)}",
            "",
            *([f"    {printable(reason)}", ""] if reason else []),
            f"    {summary(entry)}",
        ]
    )


def tagged(entry: Entry, tags: Mapping[int, Sequence[str]]) -> str:
    """The entry's tags as `` (good, reviewed)``; empty when it has none."""
    names = tags.get(entry.seq)
    return f" ({listed(names)})" if names else ""


def commit_document(commit: Commit) -> dict[str, Any]:
    """A commit for --json; `entry` is null when it was only previewed."""
    entry = commit.entry and {name: getattr(commit.entry, name) for name in ("seq", "digest", "kind", "weights")}
    return {
        "entry": entry,
        "facts": commit.facts,
        "undone": commit.undone and {"seq": commit.undone.seq, "facts": ids_in(commit.undone)},
        **{
            name: getattr(commit, name)
            for name in ("skipped", "superseded", "restored", "rewritten", "failed", "cost", "survived")
        },
        "effect": commit.effect,
        "radius": commit.radius and {**_fields(commit.radius), "lost": [shift.fact for shift in commit.radius.lost]},
    }


def commit_line(commit: Commit) -> str:
    """A commit in one line: its entry, how many requests were known already, and what was taken out again."""
    known = f"{counted(len(commit.skipped), 'request')} known already"
    undone = f"; {undone_text(commit.undone)}" if commit.undone else ""
    if commit.entry is None:
        return f"nothing written: {known}{undone}"
    return f"{commit.entry.seq:>4} {commit.entry.digest[:SHORT]} {summary(commit.entry)}" + (
        f"; {known}{undone}" if commit.skipped else undone
    )


def undone_text(entry: Entry) -> str:
    """Say which facts an entry took out because they were not said: ``taken out again by entry 3: ada``."""
    return f"taken out again by entry {entry.seq}: {listed(ids_in(entry), 5)}"


def commit_text(commit: Commit, kind: str, facts: Mapping[str, FactLife]) -> str:
    """Write out what a commit of this kind did, or would do, with its blast radius; `facts` maps ids to facts."""
    entry = commit.entry
    head = f"entry {entry.seq} {entry.digest[:SHORT]} {kind}" if entry else f"{kind}: nothing is written"
    named = {
        DONE[kind]: [fact.id for fact in commit.facts if fact.id not in commit.failed],
        "not held" if kind == "protect" else "not said": commit.failed,
        "older, said no longer": commit.cost,
        "active again": commit.restored,
        "superseded": commit.superseded,
        "whose slot gets a new value": commit.rewritten,
    }
    lines = [head, *(line for told, ids in named.items() for line in facts_lines([facts[id] for id in ids], told))]
    lines += [undone_text(commit.undone)] if commit.undone else []
    return "\n".join(lines + ([radius_text(commit.radius, facts)] if commit.radius else []))


def radius_text(radius: BlastRadius, facts: Mapping[str, FactLife]) -> str:
    """Write out a blast radius: the other facts that the change moves most, and those that are lost."""
    told = f"Blast radius: {counted(len(radius.shifts), 'other active fact')}"
    if radius.measured:
        told += f", {len(radius.measured)} measured, {len(radius.lost)} lost"
    lines = [told]
    if radius.recomputed:
        lines.append(f"  batches solved anew: entries {listed([str(seq) for seq in radius.recomputed])}")
    if radius.saw:
        lines.append(f"  optimised with it in place: entries {listed([str(seq) for seq in radius.saw])}")
    shown = [*radius.shifts[:TOP], *(shift for shift in radius.lost if shift not in radius.shifts[:TOP])]
    rows = [_shift_row(shift, facts[shift.fact], shift in radius.lost) for shift in shown]
    headers = ["fact", "seq", "predicted", "p before", "p after", "", "says"]
    return "\n".join(lines + ([table(rows, headers)] if rows else []))


def _shift_row(shift: Shift, fact: FactLife, lost: bool) -> list[object]:
    """A row of the blast radius. `p` is the probability of the target, the geometric mean over its tokens."""
    before, after = (f"{math.exp(-score.nll):.3f}" if score else "" for score in (shift.before, shift.after))
    return [
        shift.fact,
        shift.seq,
        f"{shift.predicted:.2e}",
        before,
        after,
        "lost" if lost else "",
        statement(fact),
    ]


def _fields(radius: BlastRadius) -> dict[str, Any]:
    return {field.name: getattr(radius, field.name) for field in fields(radius)}
