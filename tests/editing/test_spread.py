"""One layer takes a whole residual, several share it, each closing what the lower ones left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from lifelong_edit.algebra.objective import Memory, closed_form
from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.editing.keys import collect_keys
from lifelong_edit.editing.spread import LayerState, check_spreadable, spread, subject_states
from lifelong_edit.editing.statistics import StatisticsSettings, begin, collect
from lifelong_edit.editing.targets import optimise_targets
from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from tests.samples import CONTEXTS, QUICK, REQUESTS, TEXT, lively_editable

SPREADABLE = ("gpt2", "gpt_neox", "llama")
NAMES = tuple(str(request.id) for request in REQUESTS)


def fresh_states(editable: EditableModel, ridges: Mapping[int, float]) -> dict[int, LayerState]:
    """Unedited layers, with second moments of the sample texts."""
    collected = list(collect(editable, TEXT, StatisticsSettings(), begin(editable, list(ridges))))[-1]
    return {
        layer: LayerState(editable.weight(layer), Metric.from_moment(collected.moments[layer].value(), 1e-6), (), ridge)
        for layer, ridge in ridges.items()
    }


@pytest.mark.parametrize("ridge", [0.0, 5.0])
def test_a_single_layer_solves_the_closed_form(ridge: float) -> None:
    editable = lively_editable("gpt2", torch.float64)
    state = fresh_states(editable, {0: ridge})[0]
    delta = optimise_targets(editable, REQUESTS, 0, CONTEXTS, QUICK).delta
    edit = spread(editable, REQUESTS, NAMES, delta, False, {0: state}, CONTEXTS, Memory.batch, 1e6)[0]
    keys = collect_keys(editable, REQUESTS, 0, CONTEXTS)
    ridges = torch.full((len(REQUESTS),), ridge, dtype=torch.float64)
    expected = closed_form(delta, keys, state.metric.whiten(keys), ridges)
    torch.testing.assert_close(edit.weight - state.base, expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(edit.columns.base_residuals, delta)
    if ridge == 0:
        torch.testing.assert_close((edit.weight - state.base) @ keys, delta, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("on_base", [True, False], ids=["base", "live"])
@pytest.mark.parametrize("memory", Memory)
def test_without_a_ridge_a_value_is_its_delta_more_than_on_the_weights_of_its_target(
    memory: Memory, on_base: bool
) -> None:
    editable = lively_editable("gpt2", torch.float64)
    state = fresh_states(editable, {0: 0.0})[0]
    delta = torch.randn(32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = spread(editable, REQUESTS[:3], NAMES[:3], delta[:, :3], on_base, {0: state}, (), memory, 1e6)[0]
    later = replace(state, pairs=(first.pair,))
    second = spread(editable, REQUESTS[3:], NAMES[3:], delta[:, 3:], on_base, {0: later}, (), memory, 1e6)[0]
    keys = collect_keys(editable, REQUESTS[3:], 0, ())
    start = state.base if on_base else first.weight
    torch.testing.assert_close(second.weight @ keys, start @ keys + delta[:, 3:], rtol=1e-6, atol=1e-9)
    assert ((first.weight - state.base) @ keys).norm() > 1e-3 * delta.norm()


@pytest.mark.parametrize("model_type", SPREADABLE)
def test_every_layer_brings_the_subjects_state_closer(model_type: str) -> None:
    editable = lively_editable(
        model_type, torch.float64, gain=0.2
    )  # what block 0 writes passes block 1 nearly as it is
    states = fresh_states(editable, {0: 0.0, 1: 0.0})
    delta = optimise_targets(editable, REQUESTS[:3], 1, (), QUICK).delta
    wanted = subject_states(editable, REQUESTS[:3], 1) + delta
    before = fingerprint(editable)
    edits = spread(editable, REQUESTS[:3], NAMES[:3], delta, False, states, (), Memory.batch, 1e6)
    assert fingerprint(editable) == before
    torch.testing.assert_close(edits[0].columns.base_residuals, delta / 2)
    distances = [delta.norm(dim=0)]
    for layer in (0, 1):
        editable.set_weight(layer, edits[layer].weight)
        distances.append((wanted - subject_states(editable, REQUESTS[:3], 1)).norm(dim=0))
    assert (distances[1] < distances[0]).all()
    assert (distances[2] < 1e-6 * distances[0]).all()  # the highest layer takes all that is left


def test_a_norm_behind_the_weight_allows_one_layer_only() -> None:
    editable = lively_editable("gemma2")
    check_spreadable(editable, [0])
    with pytest.raises(RequestError, match="Edit one layer"):
        check_spreadable(editable, [0, 1])
