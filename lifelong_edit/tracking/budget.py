"""What a stream may cost: when its vital signs are read, on which facts, and what happens at a red limit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.errors import RequestError
from lifelong_edit.store import EDITS, Entry, FactLife
from lifelong_edit.tracking.health import HealthLimits


@dataclass(frozen=True, slots=True)
class Scope:
    """Which active facts a measurement asks about.

    Those of the newest edit, the oldest ones, a seeded sample, and those most at risk of being forgotten.
    """

    newest: bool = True
    oldest: int = 50
    sample: int = 100
    flagged: int = 50

    def __post_init__(self) -> None:
        counts = (self.oldest, self.sample, self.flagged)
        if min(counts) < 0 or not (self.newest or any(counts)):
            raise RequestError("A measurement asks about some facts. Give counts of 0 or more, not all of them 0.")

    def of(self, facts: Sequence[FactLife], seed: int, risks: Mapping[str, float]) -> list[FactLife]:
        """The facts to ask about, in ledger order; equal seeds draw equal samples. Protected facts are no edits.

        `risks` are those of the facts, as far as they have one.
        """
        edits = [fact for fact in facts if not fact.protected]
        last = max((fact.seq for fact in edits), default=0)
        drawn = random.Random(seed).sample(edits, min(self.sample, len(edits)))
        ranked = sorted((fact for fact in edits if fact.id in risks), key=lambda fact: -risks[fact.id])
        wanted = {fact.id for fact in (*edits[: self.oldest], *drawn, *ranked[: self.flagged])}
        return [fact for fact in edits if fact.id in wanted or (self.newest and fact.seq == last)]


class OnRed(str, Enum):
    """What to do when an edit would be over a red limit: commit and warn, refuse it, or try it in halves."""

    warn = "warn"
    stop = "stop"
    halve = "halve"


@dataclass(frozen=True)
class Budget:
    """When to read the vital signs, on which facts, against which limits, and what to do then.

    They are read every `every` edits, or with "log" at the edits 1, 2, 3, 4, 6, 8, 12, ... of a store. `metrics` are
    asked of the facts in `scope`. Without `limits`, the defaults, widened to what can be told from noise.
    """

    every: int | Literal["log"] = 5
    on_red: OnRed | str = OnRed.stop
    limits: HealthLimits | None = None
    scope: Scope = field(default_factory=Scope)
    metrics: tuple[str, ...] = (EFFICACY,)

    def __post_init__(self) -> None:
        if self.every != "log" and (not isinstance(self.every, int) or self.every < 1):
            raise RequestError(f"every is a number of edits from 1 on, or 'log', not {repr(self.every)[:40]}.")
        object.__setattr__(self, "on_red", OnRed(self.on_red))
        object.__setattr__(self, "metrics", tuple(dict.fromkeys((EFFICACY, *self.metrics))))

    def due(self, entries: Iterable[Entry]) -> bool:
        """Whether the next edit is to be read: so many edits after the last that was."""
        edits = [entry for entry in entries if entry.kind in EDITS]
        last = max((number for number, entry in enumerate(edits, start=1) if "vital" in entry.body), default=0)
        number = len(edits) + 1
        return _octave(number) > _octave(last) if self.every == "log" else number - last >= self.every


def _octave(number: int) -> int:
    """Which half octave an edit's number is in: 1, 2, 3, 4, 6, 8, 12, ... begin one."""
    return sum(number >= start for k in range(number.bit_length()) for start in {2**k, 3 * 2**k // 2})
