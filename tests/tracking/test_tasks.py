"""Accuracies of tasks, and how sure they are."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lifelong_edit.tracking import tasks
from lifelong_edit.tracking.scores import Score, argmax_rate
from lifelong_edit.tracking.tasks import measure_tasks
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.tasks import downstream_tasks
from tests.models import small_editable


def test_an_accuracy_is_the_share_of_first_choices_and_repeating_is_no_evidence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_up(_model: Any, _tokenizer: Any, pairs: list[tuple[str, str]]) -> list[Score]:
        assert len(pairs) == len(set(pairs))
        return [Score(1.0, 1.0 if answer == "right" else 0.5) for _, answer in pairs]

    monkeypatch.setattr(tasks, "score_continuations", look_up)
    one = [("a", "right"), ("b", "right"), ("c", "right"), ("d", "wrong"), ("d", "wrong")]
    found = measure_tasks(small_editable("llama"), {"one": one, "two": one[:2], "none": []})
    assert found["one/argmax"].value == 0.75 and found["one/argmax"].count == 4
    assert found["one/argmax"].error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert (found["two/argmax"].value, found["two/argmax"].error) == (1.0, 0.0)
    assert found["none/argmax"].value is None and found["none/argmax"].reason == "The task 'none' is empty."


def test_the_worlds_tasks_are_all_measured() -> None:
    editable = small_editable("llama")
    given = downstream_tasks(World.generate(BUNDLED_SEED), 3, seed=0)
    found = measure_tasks(editable, given)
    assert {name.removesuffix("/argmax") for name in found} == set(given)
    for task, pairs in given.items():
        rate = argmax_rate(editable.model, editable.tokenizer, list(dict.fromkeys(pairs)))
        assert found[f"{task}/argmax"].value == pytest.approx(rate)
