"""The state of a store as a fold over its ledger: which facts are active, and which columns hold them.

Nothing here reads files or computes on weights. `History.of` folds entries with one function for each kind of entry
(`STEPS`); `bodies` says what an entry holds. The functions at the end look up what people name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.facts import EditRequest
from lifelong_edit.store.ledger import Body, Entry, added_facts, named_facts

Status = Literal["active", "reverted", "superseded"]
EDITS = ("edit", "replace")
"""Entry kinds that add new facts."""
ADDING = (*EDITS, "protect")
"""Entry kinds that add facts, new ones or those that the base model has."""
REFITS = ("relax", "repair")
"""Entry kinds that change how the weights hold the active facts, and not which facts are active."""
PREFIX = 4  # the fewest characters that may abbreviate an id or a digest


@dataclass(frozen=True)
class FactLife:
    """One fact and its present status: entry `seq` wrote it, entry `since` gave it its `status`.

    `slot` is the digest of the prompt's tokens up to the subject's last one, where the edit is made; facts of one slot
    share its key and value. `by` is the id of the fact that superseded it: another answer to the same prompt about
    the same subject. A `protected` fact is one the base model knew, which edits are to leave alone.
    """

    id: str
    seq: int
    request: EditRequest
    slot: str
    status: Status = "active"
    since: int = -1
    by: str | None = None
    protected: bool = False

    @property
    def question(self) -> str:
        """The prompt with the subject in its place."""
        return self.request.question

    @property
    def statement(self) -> tuple[str, str]:
        """Prompt and subject in one spelling; of the facts with equal statements at most one is active."""
        return self.request.statement


@dataclass(frozen=True, order=True)
class Column:
    """One column of a record: the key and the value of a slot, optimised for the answers of all `facts` at once.

    `seq` is the entry whose record has it, `index` its position there; columns are ordered as they were written.
    """

    seq: int
    index: int
    slot: str = field(compare=False)
    facts: frozenset[str] = field(compare=False)


Changes = dict[str, FactLife]


@dataclass(frozen=True)
class History:
    """The state after some entries: every fact ever written, by id, and every column, both in ledger order.

    `refits` maps the seq of every refit to its kind; `withdrawn` holds the seqs of those that a revert took back.
    """

    facts: Mapping[str, FactLife]
    columns: tuple[Column, ...]
    refits: Mapping[int, str] = field(default_factory=dict)
    withdrawn: frozenset[int] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        """Fold the entries, from the first on; `StoreCorrupt` naming the first entry that does not fit the others."""
        facts: dict[str, FactLife] = {}
        columns: list[Column] = []
        refits: dict[int, str] = {}
        withdrawn: frozenset[int] = frozenset()
        for entry in entries:
            changed, written = step(facts, entry.seq, entry.kind, entry.body)
            facts.update(changed)
            columns += written
            withdrawn = withdrawn_after(refits, withdrawn, entry.seq, entry.body)
            refits |= {entry.seq: entry.kind} if entry.kind in REFITS else {}
        return cls(facts, tuple(columns), refits, withdrawn)

    def then(self, seq: int, kind: str, body: Mapping[str, Any]) -> History:
        """The history with one more entry, committed or only planned; `StoreCorrupt` when it does not fit."""
        planned = cast(Body, body)
        changed, written = step(self.facts, seq, kind, planned)
        own = {seq: kind} if kind in REFITS else {}
        withdrawn = withdrawn_after(self.refits, self.withdrawn, seq, planned)
        return History({**self.facts, **changed}, (*self.columns, *written), {**self.refits, **own}, withdrawn)

    def holding(self, seq: int, columns: Sequence[Sequence[str]]) -> History:
        """The history with columns that its last entry `seq` brings beside, each given by the facts it is for."""
        return replace(self, columns=(*self.columns, *_placed(self.facts, seq, columns)))

    @property
    def active(self) -> dict[str, FactLife]:
        """The active facts by id, in ledger order."""
        return {id: fact for id, fact in self.facts.items() if fact.status == "active"}

    def named(self, body: Mapping[str, Any]) -> tuple[FactLife, ...]:
        """The facts an entry of this body names first: those it writes, takes out or brings back."""
        return tuple(self.facts[fact if isinstance(fact, str) else fact["id"]] for fact in body["facts"])

    @property
    def in_force(self) -> tuple[int, ...]:
        """The seqs of the refits that no revert has taken back."""
        return tuple(seq for seq in self.refits if seq not in self.withdrawn)

    @property
    def standing(self) -> tuple[Column, ...]:
        """The columns in ledger order, without those of withdrawn refits."""
        return tuple(column for column in self.columns if column.seq not in self.withdrawn)

    def slots(self) -> dict[str, tuple[str, ...]]:
        """The ids of the active facts by slot, in ledger order."""
        by_slot: dict[str, list[str]] = {}
        for fact in self.active.values():
            by_slot.setdefault(fact.slot, []).append(fact.id)
        return {slot: tuple(ids) for slot, ids in by_slot.items()}

    def chains(self) -> dict[str, tuple[Column, ...]]:
        """The columns that hold the active facts, by slot and in ledger order: this is what a revert changes.

        A column belongs to the chain of its slot when every fact it was optimised for is active; the chain ends with
        the last column that was optimised for exactly the active facts. For example, facts a, b, c of one slot are
        written one after the other, with columns for {a}, {a, b} and {a, b, c}: reverting c leaves {a}, {a, b},
        and restoring it brings the third column back. So the chains depend on which facts are active and which refits
        are in force, and not on the way there. A chain is empty when no column is for exactly the active facts, as
        after reverting a: the slot needs a new value.
        """
        wanted = {slot: frozenset(ids) for slot, ids in self.slots().items()}
        chains: dict[str, tuple[Column, ...]] = dict.fromkeys(wanted, ())
        grown: dict[str, list[Column]] = {slot: [] for slot in wanted}
        # A column that is for a fact that is not active is passed over; the chain grows only up to a column that fits.
        for column in self.standing:
            active = wanted.get(column.slot)
            if active is not None and column.facts <= active:
                grown[column.slot].append(column)
                if column.facts == active:
                    chains[column.slot] = tuple(grown[column.slot])
        return chains

    def full_chains(self) -> dict[str, tuple[Column, ...]]:
        """The chains of a committed state, none of them empty: every entry brings what its state needs.

        `StoreCorrupt` naming a fact that no column holds, so that an entry was changed.
        """
        chains = self.chains()
        for slot in (slot for slot, chain in chains.items() if not chain):
            fact = self.facts[self.slots()[slot][0]]
            raise StoreCorrupt(f"entry {fact.since}: no column holds fact {fact.id!r}; an entry was changed since.")
        return chains

    def last_columns(self) -> dict[str, Column]:
        """The last column of every chain, whose value the active facts of the slot have; raises as `full_chains`."""
        return {slot: chain[-1] for slot, chain in self.full_chains().items()}

    def first_columns(self) -> dict[str, Column]:
        """The first column ever written for each slot."""
        first: dict[str, Column] = {}
        for column in self.columns:
            first.setdefault(column.slot, column)
        return first


def lives(entries: Iterable[Entry]) -> dict[str, FactLife]:
    """Every fact ever written, by id, in ledger order; `StoreCorrupt` naming the entry that does not fit."""
    return dict(History.of(entries).facts)


def step(facts: Mapping[str, FactLife], seq: int, kind: str, body: Body) -> tuple[Changes, tuple[Column, ...]]:
    """One step of the fold: the facts that an entry changes, as they are after it, and the columns of its record."""
    taken = STEPS.get(kind)
    if taken is None:
        raise StoreCorrupt(f"entry {seq} of kind {kind!r} was made by a newer version. Upgrade.")
    try:
        changed = taken(facts, seq, body)
        changed |= _superseded(facts, changed, body.get("superseded", []), seq)
        known = {**facts, **changed}
        _check_named(known, kind, body)
        return changed, _columns(known, seq, kind, body)
    except KeyError as error:
        raise StoreCorrupt(
            f"entry {seq} ({kind}) does not fit the history: it lacks or wrongly names {error}."
        ) from error
    except (AttributeError, TypeError, ValueError, RequestError) as error:
        raise StoreCorrupt(f"entry {seq} ({kind}) does not fit the history: {error}.") from error


def _check_named(known: Mapping[str, FactLife], kind: str, body: Body) -> None:
    """Raise `ValueError` when an entry names a fact that was never written, or holds whole facts and adds none."""
    whole = [fact for fact in body.get("facts", ()) if not isinstance(fact, str)]
    if whole and kind not in ADDING:
        raise ValueError("its kind adds no facts, and it holds some")
    ids = {fact["id"] for fact in whole} or set(named_facts(body) if "facts" in body else ())
    asked = (body.get("restored", ()), body.get("failed", ()), body.get("cost", ()), *body.get("scores", {}).values())
    if not ids.union(*asked) <= known.keys():
        raise ValueError("it names a fact that was never written")


def _columns(facts: Mapping[str, FactLife], seq: int, kind: str, body: Body) -> tuple[Column, ...]:
    # Format 1 had a column for each fact of an edit and did not say so.
    alone = [[fact["id"]] for fact in added_facts(body)] if kind == "edit" else []
    columns = _placed(facts, seq, body.get("columns", alone))
    if any(name in body and len(body[name]) != len(columns) for name in ("loss", "steps")):
        raise ValueError("not every column has its loss and its steps")
    return columns


def _placed(facts: Mapping[str, FactLife], seq: int, groups: Sequence[Sequence[str]]) -> tuple[Column, ...]:
    """The columns of an entry's record, in its order; `ValueError` for one that no active facts of one slot have."""
    columns = []
    for index, ids in enumerate(groups):
        slots = {facts[id].slot for id in ids}
        if not isinstance(ids, list) or len(slots) != 1 or any(facts[id].status != "active" for id in ids):
            raise ValueError("a column is for facts that are not active or of several slots")
        columns.append(Column(seq, index, slots.pop(), frozenset(ids)))
    return tuple(columns)


def withdrawn_after(refits: Mapping[int, str], withdrawn: frozenset[int], seq: int, body: Body) -> frozenset[int]:
    """The seqs of the withdrawn refits after an entry, which may withdraw some and reinstate others."""
    try:
        gone, back = frozenset(body.get("withdrawn", ())), frozenset(body.get("reinstated", ()))
    except TypeError as error:
        raise StoreCorrupt(f"entry {seq} does not fit the history: {error}.") from error
    if not gone <= refits.keys() - withdrawn or not back <= withdrawn:
        raise StoreCorrupt(f"entry {seq} does not fit the history: it withdraws or reinstates what it cannot.")
    return (withdrawn | gone) - back


def _unchanged(_facts: Mapping[str, FactLife], _seq: int, _body: Body) -> Changes:
    return {}


def _tag(_facts: Mapping[str, FactLife], seq: int, body: Body) -> Changes:
    if "tag" not in body or not 0 <= body["target"] < seq:
        raise ValueError("a tag names no earlier entry")
    return {}


def _edit(facts: Mapping[str, FactLife], seq: int, body: Body) -> Changes:
    added = added_facts(body)
    written = {
        f["id"]: FactLife(f["id"], seq, EditRequest.from_dict(f["request"]), f["slot"], "active", seq) for f in added
    }
    if len(written) != len(added) or written.keys() & facts.keys():
        raise ValueError("a fact id is written twice")
    if any(fact.request.needs_template for fact in written.values()):
        raise ValueError("a fact is without the prompt or the end that it was written with")
    return written


def _protect(facts: Mapping[str, FactLife], seq: int, body: Body) -> Changes:
    return {id: replace(fact, protected=True) for id, fact in _edit(facts, seq, body).items()}


def _revert(facts: Mapping[str, FactLife], seq: int, body: Body) -> Changes:
    reverted = {
        id: replace(fact, status="reverted", since=seq) for id, fact in _taken(facts, named_facts(body)).items()
    }
    return reverted | _restored(facts, seq, body.get("restored", []))


def _restore(facts: Mapping[str, FactLife], seq: int, body: Body) -> Changes:
    return _restored(facts, seq, named_facts(body))


def _restored(facts: Mapping[str, FactLife], seq: int, ids: list[str]) -> Changes:
    if any(facts[id].status == "active" for id in ids):
        raise ValueError("a fact is restored that is active")
    return {id: replace(facts[id], status="active", since=seq, by=None) for id in ids}


def _superseded(facts: Mapping[str, FactLife], changed: Changes, ids: list[str], seq: int) -> Changes:
    """The facts `ids` marked as superseded, each by the active fact with the same statement."""
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


STEPS: Mapping[str, Callable[[Mapping[str, FactLife], int, Body], Changes]] = {
    "init": _unchanged,
    "edit": _edit,
    "replace": _edit,
    "protect": _protect,
    "revert": _revert,
    "restore": _restore,
    "tag": _tag,
    "relax": _unchanged,
    "repair": _unchanged,
    "measure": _unchanged,
}


def find_fact(facts: Mapping[str, FactLife], name: str) -> FactLife | None:
    """The fact whose id is `name` or begins with it; None when there is none, `RequestError` when there are several."""
    if name in facts:
        return facts[name]
    found = [fact for id, fact in facts.items() if len(name) >= PREFIX and id.startswith(name)]
    if len(found) > 1:
        raise RequestError(f"{name!r} begins the ids of {len(found)} facts. Give more of the id.")
    return found[0] if found else None


def fact_named(facts: Mapping[str, FactLife], name: str) -> FactLife:
    """The fact whose id is `name` or begins with it; `RequestError` when there is none or several."""
    found = find_fact(facts, name)
    if found is None:
        raise RequestError(f"fact {name!r} is unknown. Give its id, or the first {PREFIX} characters or more.")
    return found


def entry_named(entries: Sequence[Entry], ref: str, sought: str = "entry") -> Entry:
    """The entry that a seq, a tag or the beginning of a digest names; `RequestError` for none or several."""
    if (named := entry_called(entries, ref)) is not None:
        return named
    found = [entry for entry in entries if len(ref) >= PREFIX and entry.digest.startswith(ref)]
    if len(found) != 1:
        what = f"no {sought}" if not found else f"{len(found)} entries"
        raise RequestError(f"{ref!r} names {what}. Give a seq up to {entries[-1].seq}, a tag, or a digest's beginning.")
    return found[0]


def entry_called(entries: Sequence[Entry], ref: str) -> Entry | None:
    """The entry that has this seq or this tag; None when there is none."""
    if ref.isascii() and ref.isdecimal() and len(ref) <= len(str(len(entries))) and int(ref) < len(entries):
        return entries[int(ref)]
    return next((entries[seq] for seq, names in tags_of(entries).items() if ref in names), None)


def tags_of(entries: Sequence[Entry]) -> dict[int, list[str]]:
    """The tags of each tagged entry, by its seq."""
    tags: dict[int, list[str]] = {}
    for entry in entries:
        if entry.kind == "tag":
            tags.setdefault(entry.body["target"], []).append(entry.body["tag"])
    return tags


def check_tag(entries: Sequence[Entry], name: str) -> None:
    """Raise `RequestError` for a tag that is taken, or that cannot be told from a seq or a digest."""
    if not name.strip() or not name.isprintable() or all(c in "0123456789abcdef" for c in name):
        raise RequestError(f"{name!r} is no name for a tag: it needs a letter beyond f, or a sign.")
    for seq, names in tags_of(entries).items():
        if name in names:
            raise RequestError(f"the tag {name!r} was given to seq {seq} already. Choose another name.")
