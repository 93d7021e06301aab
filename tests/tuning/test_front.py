"""The front holds what nothing beats."""

from __future__ import annotations

import random

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.tuning.exam import Figures
from lifelong_edit.tuning.front import front
from lifelong_edit.tuning.search import Step
from lifelong_edit.tuning.trials import ENOUGH, Point, Trial, best_of


def trial(*pairs: tuple[float, float]) -> Trial:
    points = tuple(Point(0.1 + n, Figures(1, 1, 1, 1, 1, said, kept)) for n, (said, kept) in enumerate(pairs))
    return Trial("chosen", Step("start", EditorSettings()), points, 1.0)


def test_a_point_is_on_it_when_no_other_says_and_keeps_more() -> None:
    draw = random.Random(0)
    pairs = [(round(draw.random(), 1), round(draw.random(), 1)) for _ in range(60)]
    found = [(p.figures.said, p.figures.kept) for _, p in front([trial(*pairs[:30]), trial(*pairs[30:])])]
    for pair in pairs:
        beaten = any(other != pair and other[0] >= pair[0] and other[1] >= pair[1] for other in pairs)
        assert (pair in found) != beaten
    assert [kept for _, kept in found] == sorted(kept for _, kept in found)


def test_the_best_is_on_the_front_whatever_a_loss_weighs() -> None:
    trials = [trial((0.9, 0.9), (0.8, 0.97), (0.5, 0.5)), trial((0.6, 1.0))]
    for weight, expected in ((0.0, (0.9, 0.9)), (3.0, (0.8, 0.97)), (100.0, (0.6, 1.0))):
        found = best_of(trials, weight)
        assert found is not None and (found[1].figures.said, found[1].figures.kept) == expected
        assert found in front(trials)
    near = [trial((0.5, 1.0)), trial((0.5 + 0.9 * ENOUGH, 1.0)), trial((0.5 + 1.1 * ENOUGH, 1.0))]
    for count, number in ((1, 0), (2, 0), (3, 2)):
        found = best_of(near[:count], 1.0)
        assert found is not None and found[0] is near[number]  # what facts do not tell apart is no better
    assert best_of([trial()], 1.0) is None and front([trial()]) == []
