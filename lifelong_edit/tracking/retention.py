"""Retention: how well the facts of every batch are kept as later ones come, from scores of single facts over time.

Facts that an entry wrote together are a cohort, named by the seq of the entry. A measurement is of a fact that was
active then; superseded and reverted facts are not measured, so they do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FactScore:
    """The score of one fact, measured after entry `seq`; `cohort` is the seq of the entry that wrote the fact."""

    seq: int
    cohort: int
    fact: str
    value: float


@dataclass(frozen=True)
class ForgettingPoint:
    """A point of the forgetting curve: how many facts were learnt (said after their edit), how many forgotten since.

    After entry `seq`: `learnt` and `forgotten` so far. A fact that was forgotten once stays counted, as in Gupta et al.
    (arXiv 2401.07453); their curve is `forgotten / learnt`.
    """

    seq: int
    learnt: int
    forgotten: int

    @property
    def share(self) -> float | None:
        """forgotten / learnt; None before anything is learnt."""
        return self.forgotten / self.learnt if self.learnt else None


@dataclass(frozen=True)
class RetentionMatrix:
    """Mean scores of cohorts over time, by (cohort, seq); means are over the cohort's facts that were measured then."""

    cohorts: tuple[int, ...]
    seqs: tuple[int, ...]
    values: Mapping[tuple[int, int], float]

    @classmethod
    def of(cls, measured: Iterable[FactScore]) -> RetentionMatrix:
        """Build the matrix from scores of single facts."""
        cells: dict[tuple[int, int], list[float]] = {}
        for one in measured:
            cells.setdefault((one.cohort, one.seq), []).append(one.value)
        cohorts, seqs = ({cell[axis] for cell in cells} for axis in (0, 1))
        return cls(tuple(sorted(cohorts)), tuple(sorted(seqs)), {cell: _mean(own) for cell, own in cells.items()})

    def curve(self, cohort: int) -> list[tuple[int, float]]:
        """The scores of one cohort over time, as (seq, score)."""
        return [(seq, self.values[cohort, seq]) for seq in self.seqs if (cohort, seq) in self.values]

    def at_apply(self, cohort: int) -> float | None:
        """The score right after the cohort's own edit; None when it was not measured then."""
        return self.values.get((cohort, cohort))

    def now(self, cohort: int) -> float | None:
        """The newest score; None when the cohort was never measured."""
        curve = self.curve(cohort)
        return curve[-1][1] if curve else None

    def average(self, seq: int) -> float | None:
        """Mean over the cohorts measured after entry `seq`; None when there are none."""
        column = [self.values[cohort, seq] for cohort in self.cohorts if (cohort, seq) in self.values]
        return _mean(column) if column else None

    def forgetting(self) -> float | None:
        """Mean over cohorts of the best score so far less the newest; None when none was measured twice."""
        drops = [max(score for _, score in curve) - curve[-1][1] for curve in self._curves() if len(curve) > 1]
        return _mean(drops) if drops else None

    def half_life(self, cohort: int) -> int | None:
        """The first seq at which the score is below half of that at the cohort's edit; None when it never was."""
        start = self.at_apply(cohort)
        if start is None:
            return None
        return next((seq for seq, score in self.curve(cohort) if score < start / 2), None)

    def _curves(self) -> list[list[tuple[int, float]]]:
        return [self.curve(cohort) for cohort in self.cohorts]


def series(measured: Iterable[FactScore]) -> dict[str, list[FactScore]]:
    """Group the scores by fact, oldest first."""
    by_fact: dict[str, list[FactScore]] = {}
    for one in sorted(measured, key=lambda m: m.seq):
        by_fact.setdefault(one.fact, []).append(one)
    return by_fact


def first_forgotten(measured: Sequence[FactScore]) -> dict[str, int]:
    """Find when each forgotten fact was first not said: fact -> seq. Only facts said right after their edit count."""
    found = {}
    for fact, own in series(measured).items():
        if _learnt(own):
            seq = next((one.seq for one in own if one.value < 0.5), None)
            if seq is not None:
                found[fact] = seq
    return found


def recovered(measured: Sequence[FactScore]) -> list[str]:
    """Find the facts that were forgotten once and are said again at their newest measurement."""
    by_fact = series(measured)
    return [fact for fact in first_forgotten(measured) if by_fact[fact][-1].value >= 0.5]


def forgetting_curve(measured: Sequence[FactScore]) -> list[ForgettingPoint]:
    """Count learnt and forgotten facts at every seq that has measurements."""
    first, by_fact = first_forgotten(measured), series(measured)
    learnt = [own[0].cohort for own in by_fact.values() if _learnt(own)]
    seqs = sorted({one.seq for one in measured})
    return [ForgettingPoint(s, sum(c <= s for c in learnt), sum(f <= s for f in first.values())) for s in seqs]


def _mean(values: Sequence[float]) -> float:
    """The mean; infinite where a ledger that was rewritten has numbers whose sum is beyond a float."""
    return sum(values) / len(values)


def _learnt(own: Sequence[FactScore]) -> bool:
    """Whether a fact's first measurement is right after its edit, and it was said then."""
    return own[0].seq == own[0].cohort and own[0].value >= 0.5
