"""A coordinate search: from the best settings so far, one step of one setting at a time, until no step is better.

A step is a trial edit of minutes, so what it tries is a handful of neighbours, not a grid. The search has no state: the
next step follows from the trials that were made, so one that was interrupted goes on from its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from lifelong_edit.editing.layered import MOST_LAYERS
from lifelong_edit.editing.settings import EditorSettings

SPAN = 15  # a step of layers is a fifteenth of the depth
FACTORS = (("margin", 1.5), ("drift", 1.5), ("clamp", 1.5))
RIDGE = 2.0


@dataclass(frozen=True)
class Step:
    """One move from the best settings: what it does, in words, and the settings it leads to."""

    name: str
    settings: EditorSettings


Move = Callable[[EditorSettings], EditorSettings | None]
"""Gives the settings that a step leads to; None where there is no such step."""


def candidate_layers(start: EditorSettings, depth: int) -> tuple[int, ...]:
    """All layers that a search from these settings may edit: theirs and a step around them, first and last aside."""
    (low, *_), high, width = start.layers, start.layers[-1], _span(depth)
    return tuple(range(min(low, max(1, low - width)), max(high, min(depth - 2, high + width)) + 1))


def next_step(best: EditorSettings, tried: Sequence[Step], candidates: Sequence[int], depth: int) -> Step | None:
    """The first step from the best settings that was not tried, in turns after the last one; None when all were.

    Settings that differ in their ridge alone count as one: a trial measures several ridges.
    """
    moves = list(_moves(candidates, depth))
    names, known = [name for name, _ in moves], {_without_ridge(step.settings) for step in tried}
    after = names.index(tried[-1].name) + 1 if tried and tried[-1].name in names else 0
    for name, move in moves[after:] + moves[:after]:
        settings = move(best)
        if settings is not None and _without_ridge(settings) not in known:
            return Step(name, settings)
    return None


def _moves(candidates: Sequence[int], depth: int) -> Iterator[tuple[str, Move]]:
    width = _span(depth)
    for name, low, high in (
        ("layers: to higher ones", width, width),
        ("layers: without the lowest", width, 0),
        ("layers: without the highest", 0, -width),
        ("layers: with higher ones", 0, width),
        ("layers: with lower ones", -width, 0),
        ("layers: to lower ones", -width, -width),
    ):
        yield name, _shifted(low, high, candidates)
    for field, factor in FACTORS:
        yield f"{field} / {factor:g}", _scaled(field, 1 / factor)
        yield f"{field} x {factor:g}", _scaled(field, factor)


def _shifted(low: int, high: int, candidates: Sequence[int]) -> Move:
    """The run of layers with its ends moved."""

    def move(best: EditorSettings) -> EditorSettings | None:
        first, last = max(best.layers[0] + low, candidates[0]), min(best.layers[-1] + high, candidates[-1])
        run = tuple(range(first, last + 1))
        return replace(best, layers=run) if 0 < len(run) <= MOST_LAYERS and run != best.layers else None

    return move


def _scaled(field: str, factor: float) -> Move:
    """A number of the target settings, where they have it, times a factor."""

    def move(best: EditorSettings) -> EditorSettings | None:
        value = getattr(best.recipe, field, None)
        return replace(best, target=replace(best.recipe, **{field: round(value * factor, 6)})) if value else None

    return move


def _span(depth: int) -> int:
    return max(1, round(depth / SPAN))


def _without_ridge(settings: EditorSettings) -> EditorSettings:
    return replace(settings, ridge=None)
