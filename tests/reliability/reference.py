"""What the engine should make of a history, from scratch in numpy: statuses as sets, weights by formula (2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Value:
    """One column of a record: the facts of a slot it was optimised for, and to each weight its k, q, r and ridge."""

    seq: int
    slot: str
    facts: frozenset[str]
    parts: Mapping[str, Mapping[str, Array]]


@dataclass
class Reference:
    """Facts by id. `superseded` says by which fact and when; `states` what was so after every entry."""

    joint: bool
    statement: dict[str, tuple[str, str]] = field(default_factory=dict)
    slot: dict[str, str] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    superseded: dict[str, tuple[str, int]] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    states: list[tuple[set[str], dict[str, tuple[str, int]]]] = field(default_factory=list)

    def noted(self) -> None:
        """One more entry is in the ledger."""
        self.states.append((set(self.active), dict(self.superseded)))

    def enter(self, ids: Iterable[str]) -> None:
        """New or restored facts are active; what answered their prompts until now is superseded."""
        for id in ids:
            self.superseded.pop(id, None)
            for other in [o for o in self.active if self.statement[o] == self.statement[id]]:
                self.active.remove(other)
                self.superseded[other] = (id, len(self.states))
            self.active.add(id)

    def revert(self, ids: Iterable[str]) -> None:
        """Facts are out; of those each superseded, the last is active again."""
        for id in ids:
            self.active.remove(id)
            if mine := [(when, other) for other, (by, when) in self.superseded.items() if by == id]:
                self.active.add(max(mine)[1])
                del self.superseded[max(mine)[1]]

    def revert_to(self, seq: int) -> None:
        """The facts active after entry `seq` are active, and no others."""
        active, superseded = self.states[seq]
        stands = {self.statement[id]: id for id in active}
        for id in self.active - active:
            if id in superseded and self.statement[id] in stands:
                self.superseded[id] = (stands[self.statement[id]], len(self.states))
        self.active = set(active)
        self.superseded = {id: said for id, said in self.superseded.items() if id not in active}

    def status(self, id: str) -> str:
        return "active" if id in self.active else "superseded" if id in self.superseded else "reverted"

    def groups(self) -> dict[str, frozenset[str]]:
        """The active facts of every slot."""
        slots = {self.slot[id] for id in self.active}
        return {slot: frozenset(id for id in self.active if self.slot[id] == slot) for slot in slots}

    def missing(self) -> set[frozenset[str]]:
        """The groups of facts for which there is no value yet."""
        return set(self.groups().values()) - {value.facts for value in self.values}

    def standing(self) -> list[Value]:
        """A slot's value for its active facts; in batch memory after all earlier ones for some of them."""
        found: list[Value] = []
        for facts in self.groups().values():
            own = [value for value in self.values if value.facts <= facts]
            end = next(i for i, value in enumerate(own) if value.facts == facts) + 1
            found += own[end - 1 if self.joint else 0 : end]
        return sorted(found, key=lambda value: value.seq)

    def change(self, name: str, shape: Sequence[int]) -> Array:
        """W(A) - W_0 = X Q' [d_out, d_in] of one weight, X T = R_0."""
        if not (stands := self.standing()):
            return np.zeros(shape)
        parts, batch = [value.parts[name] for value in stands], np.array([value.seq for value in stands])
        keys, whitened, residuals = (
            np.stack([part[key] for part in parts], axis=1) for key in ("keys", "whitened", "base_residuals")
        )
        system = whitened.T @ keys
        if not self.joint:
            system *= batch[:, None] <= batch[None, :]
        system += np.diag([float(part["ridge"]) for part in parts])
        change: Array = np.linalg.solve(system.T, residuals.T).T @ whitened.T
        return change
