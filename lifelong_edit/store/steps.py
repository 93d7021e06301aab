"""What every kind of entry does to the facts: the steps that `history` goes through. Nothing here reads or writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.facts import statement_of

Status = Literal["active", "reverted", "superseded"]
EDITS = ("edit", "replace")
"""The kinds of entries that write what the base does not say."""
REFITS = ("relax", "repair")
"""The kinds of entries that change how the weights hold the active facts."""


@dataclass(frozen=True)
class FactLife:
    """What became of one fact: written by entry `seq`, made what it is now, `status`, by entry `since`.

    `by` is the fact that superseded it: another answer to the same prompt about the same subject. A `protected` fact is
    one of the base's own that edits are to leave alone.
    """

    id: str
    seq: int
    request: dict[str, Any]
    slot: str
    status: Status = "active"
    since: int = -1
    by: str | None = None
    protected: bool = False

    @property
    def question(self) -> str:
        """The prompt with the subject in its place, without trailing blanks."""
        return str(self.request.get("prompt", "")).replace("{}", str(self.request.get("subject", ""))).rstrip()

    @property
    def statement(self) -> tuple[str, str]:
        """Prompt and subject: of all facts with equal statements one at most is active."""
        return statement_of(str(self.request.get("prompt", "")), str(self.request.get("subject", "")))


@dataclass(frozen=True, order=True)
class Column:
    """One column of a record: the value of a slot that was optimised for `facts` together. Ordered as in the ledger."""

    seq: int
    index: int
    slot: str = field(compare=False)
    facts: frozenset[str] = field(compare=False)


Changes = dict[str, FactLife]


def step(
    facts: Mapping[str, FactLife], seq: int, kind: str, body: Mapping[str, Any]
) -> tuple[Changes, tuple[Column, ...]]:
    """The facts an entry changes and the columns its record brings."""
    taken = STEPS.get(kind)
    if taken is None:
        raise StoreCorrupt(f"entry {seq} of kind {kind!r} was made by a newer version. Upgrade.")
    try:
        changed = taken(facts, seq, body)
        changed |= _superseded(facts, changed, body.get("superseded", []), seq)
        return changed, _columns({**facts, **changed}, seq, kind, body)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"entry {seq} ({kind}) does not fit the history: {error}.") from error


def _columns(facts: Mapping[str, FactLife], seq: int, kind: str, body: Mapping[str, Any]) -> tuple[Column, ...]:
    alone = [[fact["id"]] for fact in body["facts"]] if kind == "edit" else []  # entries of format 1 do not say
    columns = []
    for index, ids in enumerate(body.get("columns", alone)):
        slots = {facts[id].slot for id in ids}
        if not isinstance(ids, list) or len(slots) != 1 or any(facts[id].status != "active" for id in ids):
            raise ValueError("a column is for facts that are not active or of several slots")
        columns.append(Column(seq, index, slots.pop(), frozenset(ids)))
    return tuple(columns)


def withdrawn_after(
    refits: Mapping[int, str], withdrawn: frozenset[int], seq: int, body: Mapping[str, Any]
) -> frozenset[int]:
    """The refits not in force after an entry, which may withdraw some and reinstate others."""
    try:
        gone, back = frozenset(body.get("withdrawn", ())), frozenset(body.get("reinstated", ()))
    except TypeError as error:
        raise StoreCorrupt(f"entry {seq} does not fit the history: {error}.") from error
    if not gone <= refits.keys() - withdrawn or not back <= withdrawn:
        raise StoreCorrupt(f"entry {seq} does not fit the history: it withdraws or reinstates what it cannot.")
    return (withdrawn | gone) - back


def _unchanged(_facts: Mapping[str, FactLife], _seq: int, _body: Mapping[str, Any]) -> Changes:
    return {}


def _edit(facts: Mapping[str, FactLife], seq: int, body: Mapping[str, Any]) -> Changes:
    written = {f["id"]: FactLife(f["id"], seq, f["request"], f["slot"], "active", seq) for f in body["facts"]}
    if len(written) != len(body["facts"]) or written.keys() & facts.keys():
        raise ValueError("a fact id is written twice")
    return written


def _protect(facts: Mapping[str, FactLife], seq: int, body: Mapping[str, Any]) -> Changes:
    return {id: replace(fact, protected=True) for id, fact in _edit(facts, seq, body).items()}


def _revert(facts: Mapping[str, FactLife], seq: int, body: Mapping[str, Any]) -> Changes:
    reverted = {id: replace(fact, status="reverted", since=seq) for id, fact in _taken(facts, body["facts"]).items()}
    return reverted | _restored(facts, seq, body.get("restored", []))


def _restore(facts: Mapping[str, FactLife], seq: int, body: Mapping[str, Any]) -> Changes:
    return _restored(facts, seq, body["facts"])


def _restored(facts: Mapping[str, FactLife], seq: int, ids: list[str]) -> Changes:
    if any(facts[id].status == "active" for id in ids):
        raise ValueError("a fact is restored that is active")
    return {id: replace(facts[id], status="active", since=seq, by=None) for id in ids}


def _superseded(facts: Mapping[str, FactLife], changed: Changes, ids: list[str], seq: int) -> Changes:
    """The facts `ids` as superseded, each by the fact of its statement that is active now."""
    taken = _taken(facts, ids)
    standing = {f.statement: f.id for f in {**facts, **changed}.values() if f.status == "active" and f.id not in taken}
    return {
        id: replace(fact, status="superseded", since=seq, by=standing[fact.statement]) for id, fact in taken.items()
    }


def _taken(facts: Mapping[str, FactLife], ids: list[str]) -> Changes:
    taken = {id: facts[id] for id in ids}
    if len(taken) != len(ids) or any(fact.status != "active" for fact in taken.values()):
        raise ValueError("a fact is taken out that is not active")
    return taken


STEPS: Mapping[str, Callable[[Mapping[str, FactLife], int, Mapping[str, Any]], Changes]] = {
    "init": _unchanged,
    "edit": _edit,
    "replace": _edit,
    "protect": _protect,
    "revert": _revert,
    "restore": _restore,
    "tag": _unchanged,
    "relax": _unchanged,
    "repair": _unchanged,
    "measure": _unchanged,
}
