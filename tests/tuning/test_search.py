"""The search takes one step of one setting at a time, tries nothing twice, and ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lifelong_edit.editing.layered import MOST_LAYERS, LayeredSettings
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.tuning.search import Step, candidate_layers, next_step

START = EditorSettings(layers=tuple(range(1, 9)), ridge=0.15, target=LayeredSettings())


def walked(start: EditorSettings, depth: int) -> list[Step]:
    """All steps of a search that never finds anything better."""
    candidates, tried = candidate_layers(start, depth), [Step("start", start)]
    while step := next_step(start, tried, candidates, depth):
        tried.append(step)
    return tried


@pytest.mark.parametrize(
    ("start", "depth"),
    [(START, 30), (replace(START, layers=(2, 3)), 8), (replace(START, layers=(3,), target=TargetSettings()), 16)],
)
def test_every_step_is_another_setting_one_thing_away(start: EditorSettings, depth: int) -> None:
    steps = walked(start, depth)
    settings = [step.settings for step in steps]
    assert len(steps) > 4 and all(one not in settings[:i] for i, one in enumerate(settings))
    for one in settings[1:]:
        assert (one.layers == start.layers) != (one.target == start.target) and one.ridge == start.ridge
        assert set(one.layers) <= set(candidate_layers(start, depth)) and 1 <= len(one.layers) <= MOST_LAYERS
        assert one.layers == tuple(range(one.layers[0], one.layers[-1] + 1))


def test_candidates_are_a_step_around_the_start_without_first_and_last() -> None:
    assert candidate_layers(START, 30) == tuple(range(1, 11))
    assert candidate_layers(replace(START, layers=(0,)), 2) == (0,)
    assert candidate_layers(replace(START, layers=(3,)), 5) == (2, 3)
    assert candidate_layers(replace(START, layers=(1,)), 2) == (1,)


def test_after_a_better_setting_the_search_goes_on_from_it_with_the_next_step() -> None:
    candidates, tried = candidate_layers(START, 30), [Step("start", START)]
    first = next_step(START, tried, candidates, 30)
    assert first is not None
    second = next_step(first.settings, [*tried, first], candidates, 30)
    assert second is not None and second.name != first.name
    assert second.settings.layers != START.layers or second.settings.target == first.settings.target


def test_another_ridge_of_the_best_is_no_other_setting() -> None:
    candidates, steps = candidate_layers(START, 30), walked(START, 30)
    assert next_step(replace(START, ridge=0.6), steps, candidates, 30) is None


def test_a_number_that_would_be_refused_is_no_step() -> None:
    target = replace(LayeredSettings(), drift=0.0)
    names = {step.name for step in walked(replace(START, target=target), 30)}
    assert not any(name.startswith("drift") for name in names) and any(name.startswith("margin") for name in names)
