"""One layer takes a whole residual, several share it, each closing what the lower ones left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.algebra.system import Columns, Memory, Pair, append, closed_form, materialise
from lifelong_edit.editing.keys import collect_keys, prefixed
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.statistics import StatisticsSettings, begin, collect
from lifelong_edit.editing.targets import optimise_targets
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel.write import LayerState, spread, subject_states
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from tests.samples import CONTEXTS, QUICK, REQUESTS, TEXT, lively_editable

SPREADABLE = ("gpt2", "gpt_neox", "llama")


def fresh_states(
    editable: EditableModel, ridges: Mapping[int, float], count: int = len(REQUESTS)
) -> dict[int, LayerState]:
    """Unedited layers before a batch of `count` facts, with second moments of the sample texts."""
    collected = list(collect(editable, TEXT, StatisticsSettings(), begin(editable, list(ridges))))[-1]
    return {
        layer: LayerState(
            base=editable.weight(layer),
            metric=Metric.from_moment(collected.moments[layer].value(), 1e-6),
            earlier=Pair.empty(*editable.shape(layer)),
            ridge=torch.full((count,), ridge, dtype=torch.float64),
            held={},
        )
        for layer, ridge in ridges.items()
    }


@dataclass(frozen=True)
class Edit:
    """What a batch adds to one layer, and the weight [d_out, d_in] it leads to."""

    columns: Columns
    pair: Pair
    weight: Tensor


def spread_out(
    editable: EditableModel,
    requests: Sequence[EditRequest],
    delta: Tensor,
    on_base: bool,
    states: Mapping[int, LayerState],
    contexts: Sequence[str],
    memory: Memory = Memory.batch,
) -> dict[int, Edit]:
    """A batch of facts with slots of their own, each layer's columns appended to what was written before."""
    edits: dict[int, Edit] = {}

    def place(layer: int, columns: Columns) -> Tensor:
        state = states[layer]
        pair = append(columns, state.earlier, memory, 1e6)
        edits[layer] = Edit(columns, pair, materialise(state.base, [state.earlier, pair]))
        return edits[layer].weight

    names = [str(request.id) for request in requests]
    columns = spread(editable, requests, names, delta, on_base, states, prefixed(contexts), place)
    assert {layer: edit.columns for layer, edit in edits.items()} == columns
    return edits


@pytest.mark.parametrize("ridge", [0.0, 5.0])
def test_a_single_layer_solves_the_closed_form(ridge: float) -> None:
    editable = lively_editable("gpt2", torch.float64)
    state = fresh_states(editable, {0: ridge})[0]
    delta = optimise_targets(editable, [[request] for request in REQUESTS], 0, CONTEXTS, QUICK).delta
    edit = spread_out(editable, REQUESTS, delta, False, {0: state}, CONTEXTS)[0]
    keys = collect_keys(editable, REQUESTS, 0, prefixed(CONTEXTS))
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
    state = fresh_states(editable, {0: 0.0}, count=3)[0]
    delta = torch.randn(32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = spread_out(editable, REQUESTS[:3], delta[:, :3], on_base, {0: state}, (), memory)[0]
    later = replace(state, earlier=first.pair)
    second = spread_out(editable, REQUESTS[3:], delta[:, 3:], on_base, {0: later}, (), memory)[0]
    keys = collect_keys(editable, REQUESTS[3:], 0, prefixed(()))
    start = state.base if on_base else first.weight
    torch.testing.assert_close(second.weight @ keys, start @ keys + delta[:, 3:], rtol=1e-6, atol=1e-9)
    assert ((first.weight - state.base) @ keys).norm() > 1e-3 * delta.norm()


@pytest.mark.parametrize("model_type", SPREADABLE)
def test_every_layer_brings_the_subjects_state_closer(model_type: str) -> None:
    editable = lively_editable(
        model_type, torch.float64, gain=0.2
    )  # what block 0 writes passes block 1 nearly as it is
    states = fresh_states(editable, {0: 0.0, 1: 0.0}, count=3)
    delta = optimise_targets(editable, [[request] for request in REQUESTS[:3]], 1, (), QUICK).delta
    wanted = subject_states(editable, REQUESTS[:3], 1) + delta
    before = fingerprint(editable)
    edits = spread_out(editable, REQUESTS[:3], delta, False, states, ())
    assert fingerprint(editable) == before
    torch.testing.assert_close(edits[0].columns.base_residuals, delta / 2)
    distances = [delta.norm(dim=0)]
    for layer in (0, 1):
        editable.set_weight(layer, edits[layer].weight)
        distances.append((wanted - subject_states(editable, REQUESTS[:3], 1)).norm(dim=0))
    assert (distances[1] < distances[0]).all()
    assert (distances[2] < 1e-6 * distances[0]).all()  # the highest layer takes all that is left


def test_a_slot_that_has_a_key_keeps_it() -> None:
    editable = lively_editable("gpt2", torch.float64)
    state = fresh_states(editable, {0: 1.0})[0]
    delta = torch.ones(32, 6, dtype=torch.float64)
    plain = spread_out(editable, REQUESTS, delta, True, {0: state}, ())[0].columns
    key, white = 1.01 * plain.keys[:, 2], 1.01 * plain.whitened[:, 2]
    held = spread_out(editable, REQUESTS, delta, True, {0: replace(state, held={2: (key, white)})}, ())[0].columns
    assert torch.equal(held.keys[:, 2], key) and torch.equal(held.whitened[:, 2], white)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(held.keys[:, others], plain.keys[:, others])
    assert torch.equal(held.whitened[:, others], plain.whitened[:, others])


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text"])
def test_a_norm_behind_the_weight_allows_one_layer_only(model_type: str) -> None:
    editable = lively_editable(model_type)
    assert EditorSettings(layers=(0,), target=QUICK).resolved(editable) == (0,)
    with pytest.raises(RequestError, match="Edit one layer"):
        EditorSettings(layers=(0, 1), target=QUICK).resolved(editable)
