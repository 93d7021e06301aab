"""State is a fold: which facts live, derived from the ledger's entries. Nothing here reads or writes.

What an entry's body holds. Always ``kind``, ``time`` (UTC, ISO 8601), ``actor``, ``reason`` (may be null),
``versions`` (name: version) and ``seed``; ``seq``, ``prev`` and ``requests`` (id: content digest) are the ledger's.

* ``init``: ``config``, ``fingerprint`` of the base model, ``contexts`` (list), ``base_weights`` (digest).
* ``edit``: ``facts``, in the order of the record's columns, each ``{"id", "slot", "request", ...}`` with the request
  as `EditRequest.to_dict` gives it; ``method``, ``hyperparameters``; ``record`` and ``weights`` (digests).
* ``revert``: ``facts``, the ids that are taken out; ``record`` and ``weights``.
* ``tag``, ``measure``: whatever they like; the weights stay.

A kind that is not named here may change the weights in ways this version cannot know, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.store.entries import Entry

Status = Literal["active", "reverted"]


@dataclass(frozen=True)
class FactLife:
    """What became of one fact: written by entry `seq` as the column `column` of its record, now `status`."""

    id: str
    seq: int
    column: int
    request: dict[str, Any]
    slot: str
    status: Status = "active"


def lives(entries: Iterable[Entry]) -> dict[str, FactLife]:
    """Every fact ever written, by id, in ledger order; `StoreCorrupt` naming the entry that makes no sense."""
    facts: dict[str, FactLife] = {}
    for entry in entries:
        step = STEPS.get(entry.kind)
        if step is None:
            raise StoreCorrupt(f"entry {entry.seq} of kind {entry.kind!r} was made by a newer version. Upgrade.")
        try:
            facts.update(step(facts, entry))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"entry {entry.seq} ({entry.kind}) does not fit the history: {error}.") from error
    return facts


def active(entries: Iterable[Entry]) -> dict[int, tuple[FactLife, ...]]:
    """The facts now active, by the seq of their edit, in ledger order; an edit without one is left out.

    Raises `StoreCorrupt` as `lives` does.
    """
    by_seq: dict[int, tuple[FactLife, ...]] = {}
    for fact in lives(entries).values():
        if fact.status == "active":
            by_seq[fact.seq] = (*by_seq.get(fact.seq, ()), fact)
    return by_seq


def _unchanged(_facts: Mapping[str, FactLife], _entry: Entry) -> dict[str, FactLife]:
    return {}


def _edit(facts: Mapping[str, FactLife], entry: Entry) -> dict[str, FactLife]:
    written = {
        fact["id"]: FactLife(fact["id"], entry.seq, column, fact["request"], fact["slot"])
        for column, fact in enumerate(entry.body["facts"])
    }
    if len(written) != len(entry.body["facts"]) or written.keys() & facts.keys():
        raise ValueError("a fact id is written twice")
    return written


def _revert(facts: Mapping[str, FactLife], entry: Entry) -> dict[str, FactLife]:
    taken = {id: facts[id] for id in entry.body["facts"]}
    if len(taken) != len(entry.body["facts"]) or any(fact.status != "active" for fact in taken.values()):
        raise ValueError("a fact is reverted that is not active")
    return {id: replace(fact, status="reverted") for id, fact in taken.items()}


STEPS: Mapping[str, Callable[[Mapping[str, FactLife], Entry], dict[str, FactLife]]] = {
    "init": _unchanged,
    "edit": _edit,
    "revert": _revert,
    "tag": _unchanged,
    "measure": _unchanged,
}
