"""The life of a fact: what each entry that names it made of it, and the value that stands for it now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lifelong_edit.cli.output import listed, printable, table
from lifelong_edit.cli.telling import ids_in, statement
from lifelong_edit.store import Entry, FactLife, History


@dataclass(frozen=True)
class Event:
    """An entry that made something of a fact; also the first entry and the newest, which show it before and now.

    `says` is what the model says to the fact's prompt after the entry, where that was asked for.
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
    """The value of the fact's slot now: the entry that wrote it, the facts it is for, where its optimisation ended."""

    seq: int
    facts: tuple[str, ...]
    loss: float | None
    steps: int | None


@dataclass(frozen=True)
class Measured:
    """A score of the fact that an entry recorded: right after its edit, or later."""

    seq: int
    metric: str
    value: float | None


def scores_of(entries: Sequence[Entry], fact: FactLife) -> list[Measured]:
    """Every score of the fact in the ledger, in time."""
    return [
        Measured(entry.seq, metric, scores[fact.id])
        for entry in entries[fact.seq :]
        for metric, scores in entry.body.get("scores", {}).items()
        if fact.id in scores
    ]


def life_of(entries: Sequence[Entry], fact: FactLife) -> list[Event]:
    """Before the fact, every change of it, and now."""
    events = [_event(entries[0], "not written")]
    for entry in entries[fact.seq :]:
        if became := _became(entry, fact.id):
            events.append(_event(entry, became))
    return events if events[-1].seq == entries[-1].seq else [*events, _event(entries[-1], f"{events[-1].became} now")]


def value_of(entries: Sequence[Entry], history: History, fact: FactLife) -> Value | None:
    """The value that stands for the fact; None for a fact that is not active."""
    chain = history.chains().get(fact.slot, ()) if fact.status == "active" else ()
    if not chain:
        return None
    column = chain[-1]
    body: dict[str, Any] = entries[column.seq].body
    loss, steps = (body[name][column.index] if name in body else None for name in ("loss", "steps"))
    return Value(column.seq, tuple(sorted(column.facts)), loss, steps)


def fact_text(
    fact: FactLife, value: Value | None, life: Sequence[Event], scores: Sequence[Measured], residual: float | None
) -> str:
    """A fact's life for a person."""
    by = f" by {fact.by}" if fact.by else ""
    rows: list[tuple[str, str | None]] = [
        ("fact", fact.id),
        ("asks", statement(fact)),
        ("before", fact.request.get("target_true")),
        ("status", f"{fact.status}{by} since entry {fact.since}{', protected' if fact.protected else ''}"),
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
    """What an entry made of the fact; None when it does not name it."""
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
    optimised = "" if value.loss is None else f", loss {value.loss:.3f} after {value.steps} steps"
    return f"of entry {value.seq}{optimised}" + (f", shared with {listed(shared)}" if shared else "")


def _measured_by(fact: FactLife) -> str | None:
    """The texts that measure the edit, counted."""
    fields = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
    return ", ".join(f"{len(fact.request[name])} {name}" for name in fields if name in fact.request) or None
