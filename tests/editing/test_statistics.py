"""Second moments: the mean of k k' over a text, whatever way it was collected."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lifelong_edit.editing.second_moments import collected_moments
from lifelong_edit.editing.statistics import (
    TEXTS_PER_PASS,
    Collected,
    StatisticsSettings,
    begin,
    collect,
    digest_of,
    statistics_key,
)
from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from tests.editing.test_keys import never
from tests.models import MODEL_TYPES
from tests.obstacles import endless, never_waiting
from tests.samples import TEXT, lively_editable

TEXTS = TEXT * 5  # three passes
ALL = StatisticsSettings(outlier=1.0)  # so that half of the keys are bounded


def captured_inputs(editable: EditableModel, layer: int, texts: list[str], max_length: int) -> Tensor:
    """The weight's input at every token [n, d_in], each text run alone."""
    rows = []
    for text in texts:
        ids = editable.tokenizer(text).input_ids[:max_length]
        with captured(editable.write(layer)) as seen, torch.no_grad():
            editable.model(input_ids=torch.tensor([ids]))
        rows.append(seen.input[0].double())
    return torch.cat(rows)


def last(editable: EditableModel, layers: list[int], settings: StatisticsSettings) -> Collected:
    return list(collect(editable, TEXTS, settings, begin(editable, layers)))[-1]


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return lively_editable("llama", torch.float64)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_collecting_is_the_mean_over_captured_inputs(model_type: str) -> None:
    editable = lively_editable(model_type, torch.float64)
    collected = list(collect(editable, TEXT, StatisticsSettings(max_length=20), begin(editable, [0, 1])))[-1]
    for layer in (0, 1):
        inputs = captured_inputs(editable, layer, TEXT, 20)
        moment = collected.moments[layer].value()
        assert moment.count == len(inputs)
        tolerance = 1e-5 if model_type == "gemma2" else 1e-12  # its softmax rounds to float32
        torch.testing.assert_close(moment.matrix, inputs.T @ inputs / len(inputs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("outlier", [1.0, 1.5, None])
def test_an_outlier_counts_as_a_key_of_so_many_median_masses(editable: EditableModel, outlier: float | None) -> None:
    collected = last(editable, [0, 1], StatisticsSettings(outlier=outlier))
    for layer in (0, 1):
        inputs = captured_inputs(editable, layer, TEXTS, 256)
        first = captured_inputs(editable, layer, TEXTS[:TEXTS_PER_PASS], 256).square().sum(dim=1)
        bound = math.inf if outlier is None else outlier * float(first.median())
        masses = [float(key @ key) for key in inputs]
        assert outlier is None or any(mass > bound for mass in masses)
        weighed = [min(1.0, bound / mass) * torch.outer(key, key) for key, mass in zip(inputs, masses, strict=True)]
        expected = torch.stack(weighed).mean(dim=0)
        torch.testing.assert_close(collected.moments[layer].value().matrix, expected, rtol=1e-12, atol=1e-12)


def test_the_budget_counts_tokens_and_is_met_exactly(editable: EditableModel) -> None:
    budget = 700
    collected = last(editable, [0], StatisticsSettings(tokens=budget, max_length=20))
    first = captured_inputs(editable, 0, TEXTS, 20)[:budget]
    assert collected.tokens == budget
    assert collected.texts < len(TEXTS)
    torch.testing.assert_close(collected.moments[0].value().matrix, first.T @ first / budget, rtol=1e-12, atol=1e-12)


def test_resuming_equals_an_uninterrupted_run_bit_for_bit(editable: EditableModel) -> None:
    whole = last(editable, [0, 1], ALL)
    stopped = next(collect(editable, TEXTS, ALL, begin(editable, [0, 1])))
    assert stopped.texts == TEXTS_PER_PASS
    resumed = list(collect(editable, TEXTS, ALL, stopped))[-1]
    assert (resumed.texts, resumed.tokens) == (whole.texts, whole.tokens)
    for layer in (0, 1):
        assert torch.equal(resumed.moments[layer].total, whole.moments[layer].total)


def test_an_interrupted_collection_goes_on_from_its_file(
    editable: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifelong_edit.editing.second_moments.PASSES_PER_SAVE", 1)
    told: list[int] = []

    def interrupt(tokens: int, _wanted: int) -> None:
        told.append(tokens)
        if len(told) == 3:
            raise KeyboardInterrupt

    whole = collected_moments(editable, "model", [0], [TEXTS], ALL, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        collected_moments(editable, "model", [0], [TEXTS], ALL, tmp_path, interrupt)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    again: list[int] = []
    resumed = collected_moments(editable, "model", [0], [TEXTS], ALL, tmp_path, lambda tokens, _: again.append(tokens))
    assert resumed == whole
    assert again[0] > told[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, endless, lambda path: path.write_bytes(b"no sums"), None])
def test_a_collection_that_cannot_go_on_begins_anew(
    make: Callable[[Path], object] | None, editable: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifelong_edit.editing.second_moments.PASSES_PER_SAVE", 1)
    whole = collected_moments(editable, "model", [0], [TEXTS], ALL, tmp_path)
    saved, others = (interrupted(editable, layer, tmp_path) for layer in (0, 1))
    saved.unlink()
    make(saved) if make else others.rename(saved)  # the sums of another layer under the name of ours
    with never_waiting():
        assert collected_moments(editable, "model", [0], [TEXTS], ALL, tmp_path) == whole


def interrupted(editable: EditableModel, layer: int, folder: Path) -> Path:
    """The file that a collection leaves which is interrupted in its second pass."""
    told: list[int] = []

    def interrupt(tokens: int, _wanted: int) -> None:
        told.append(tokens)
        if len(told) == 2:
            raise KeyboardInterrupt

    before = set(folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        collected_moments(editable, "model", [layer], [TEXTS], ALL, folder, interrupt)
    (left,) = set(folder.iterdir()) - before
    return left


def test_layers_above_the_highest_wanted_never_run(editable: EditableModel) -> None:
    handle = editable.block(1).register_forward_pre_hook(never)
    try:
        last(editable, [0], ALL)
    finally:
        handle.remove()


def test_a_key_changes_with_every_cause() -> None:
    causes = [
        statistics_key("model", 0, digest_of(["a", "b"]), ALL),
        statistics_key("another model", 0, digest_of(["a", "b"]), ALL),
        statistics_key("model", 1, digest_of(["a", "b"]), ALL),
        statistics_key("model", 0, digest_of(["b", "a"]), ALL),
        statistics_key("model", 0, digest_of(["ab"]), ALL),
        statistics_key("model", 0, digest_of(["a", "b", ""]), ALL),
        statistics_key("model", 0, digest_of(["a", "b"]), replace(ALL, tokens=5)),
        statistics_key("model", 0, digest_of(["a", "b"]), replace(ALL, max_length=5)),
        statistics_key("model", 0, digest_of(["a", "b"]), replace(ALL, outlier=5.0)),
        statistics_key("model", 0, digest_of(["a", "b"]), replace(ALL, outlier=None)),
    ]
    assert len(set(causes)) == len(causes)


def test_texts_without_a_token_add_nothing_and_no_token_at_all_is_an_error(editable: EditableModel) -> None:
    with_gaps = list(collect(editable, ["", TEXT[0], "", *TEXT[1:]], ALL, begin(editable, [0])))[-1]
    without = list(collect(editable, TEXT, ALL, begin(editable, [0])))[-1]
    assert with_gaps.tokens == without.tokens
    for nothing in ([], ["", ""]):
        with pytest.raises(RequestError, match="no token"):
            list(collect(editable, nothing, ALL, begin(editable, [0])))


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"max_length": 0}, {"outlier": 0.5}, {"outlier": math.nan}], ids=str)
def test_settings_that_collect_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="at least on"):
        StatisticsSettings(**wrong)
