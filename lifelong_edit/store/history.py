"""State is a fold: which facts live, and which columns of which records stand for them. Nothing here reads or writes.

What an entry's body holds. Always ``kind``, ``time`` (UTC, ISO 8601), ``actor``, ``reason`` (may be null),
``versions`` (name: version) and ``seed``; ``seq``, ``prev`` and ``requests`` (id: content digest) are the ledger's.

* ``init``: ``config``, ``fingerprint`` of the base model, ``contexts`` (list), ``base_weights`` (digest).
* ``edit``, ``replace``: ``facts``, each ``{"id", "slot", "request", ...}`` with the request as `EditRequest.to_dict`
  gives it; ``method``, ``hyperparameters``.
* ``revert``: ``facts``, the ids that are taken out; ``restored``, ids that are active again thereby; ``to``, the seq
  whose active facts are wanted.
* ``protect``: as ``edit``, facts of the base that are to stay as they are; a column for them alone has no residual.
* ``restore``: ``facts``, the ids that are active again.
* ``relax``, ``repair``: refits, which change how the weights hold the active facts and not which. ``relax`` brings
  columns with a lower ridge for ``facts``; ``repair`` makes one batch of all that was written before it. A refit is in
  force until a ``revert`` has its seq in ``withdrawn``, and again when one has it in ``reinstated``.
* ``tag``: ``tag``, a name for the entry ``target``. ``measure``: figures of the model as it is, ``drift`` among them.

An entry that changes the weights has ``record`` and ``weights`` (digests). It may have ``superseded``, the ids that
others stand in for from now on, and ``columns``: to each column of its record the ids of the facts it was optimised
for, with ``loss`` and ``steps``, where and when that ended. What was measured is in ``scores``, {metric: {fact id:
value}}, and by cohort in ``retention``; right after an edit it is the edit's own facts.

A kind that is not named here may change the weights in ways this version cannot know, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lifelong_edit.store.ledger import Entry
from lifelong_edit.store.steps import REFITS, Column, FactLife, step, withdrawn_after


@dataclass(frozen=True)
class History:
    """Every fact ever written, by id, and every column, both in ledger order.

    `refits` are the refits by seq, with their kind; `withdrawn` are those of them that are not in force.
    """

    facts: Mapping[str, FactLife]
    columns: tuple[Column, ...]
    refits: Mapping[int, str] = field(default_factory=dict)
    withdrawn: frozenset[int] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        """The history these entries tell; `StoreCorrupt` naming the entry that makes no sense."""
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
        """The history with one more entry, which need not be committed yet; `StoreCorrupt` when it does not fit."""
        changed, written = step(self.facts, seq, kind, body)
        own = {seq: kind} if kind in REFITS else {}
        withdrawn = withdrawn_after(self.refits, self.withdrawn, seq, body)
        return History({**self.facts, **changed}, (*self.columns, *written), {**self.refits, **own}, withdrawn)

    @property
    def active(self) -> dict[str, FactLife]:
        """The facts now active, by id, in ledger order."""
        return {id: fact for id, fact in self.facts.items() if fact.status == "active"}

    @property
    def in_force(self) -> tuple[int, ...]:
        """The seqs of the refits that were not withdrawn."""
        return tuple(seq for seq in self.refits if seq not in self.withdrawn)

    @property
    def standing(self) -> tuple[Column, ...]:
        """All columns but those of withdrawn refits."""
        return tuple(column for column in self.columns if column.seq not in self.withdrawn)

    def slots(self) -> dict[str, tuple[str, ...]]:
        """To every slot with active facts their ids, in ledger order."""
        by_slot: dict[str, list[str]] = {}
        for fact in self.active.values():
            by_slot.setdefault(fact.slot, []).append(fact.id)
        return {slot: tuple(ids) for slot, ids in by_slot.items()}

    def chains(self) -> dict[str, tuple[Column, ...]]:
        """To every slot with active facts the columns that stand for them, in ledger order.

        A column stands when all facts it was optimised for are active, up to the column that was optimised for exactly
        the active ones, which comes last. So equal sets of active facts have equal chains while equal refits are
        in force, whatever happened in between. A chain is empty where there is no such last column: a value must be
        optimised first.
        """
        wanted = {slot: frozenset(ids) for slot, ids in self.slots().items()}
        chains: dict[str, tuple[Column, ...]] = dict.fromkeys(wanted, ())
        grown: dict[str, list[Column]] = {slot: [] for slot in wanted}
        for column in self.standing:
            active = wanted.get(column.slot)
            if active is not None and column.facts <= active:
                grown[column.slot].append(column)
                if column.facts == active:
                    chains[column.slot] = tuple(grown[column.slot])
        return chains

    def first_columns(self) -> dict[str, Column]:
        """To every slot the first column ever written for it."""
        first: dict[str, Column] = {}
        for column in self.columns:
            first.setdefault(column.slot, column)
        return first


def lives(entries: Iterable[Entry]) -> dict[str, FactLife]:
    """Every fact ever written, by id, in ledger order; `StoreCorrupt` naming the entry that makes no sense."""
    return dict(History.of(entries).facts)
