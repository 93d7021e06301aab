"""The front: the points for which no other one says more and keeps more."""

from __future__ import annotations

from collections.abc import Sequence

from lifelong_edit.tuning.trials import Point, Trial


def front(trials: Sequence[Trial]) -> list[tuple[Trial, Point]]:
    """The points of the trials that no other point beats in both `said` and `kept`, by what they keep."""
    points = [(trial, point) for trial in trials for point in trial.points]
    best = [pair for pair in points if not any(_beats(other, pair[1]) for _, other in points)]
    return sorted(best, key=lambda pair: (pair[1].figures.kept, pair[1].figures.said))


def _beats(one: Point, other: Point) -> bool:
    mine, theirs = one.figures, other.figures
    return (
        mine.said >= theirs.said and mine.kept >= theirs.kept and (mine.said, mine.kept) != (theirs.said, theirs.kept)
    )
