"""Target vectors of a batch are those of the published computation, fact by fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from serial_targets import serial_target
from torch import Tensor

from lifelong_edit.editing.frozen import FrozenRows
from lifelong_edit.editing.targets import TargetSettings, optimise_targets
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.subject import encode
from tests.models import MODEL_TYPES
from tests.samples import CONTEXTS, REQUESTS, lively_editable

SETTINGS = TargetSettings(rate=0.5, clamp=2.0, decay=0.002, stop=5.3)  # some facts stop, others meet the clamp
# gemma2 attends eagerly only, and eager attention takes its softmax in float32 whatever the model's dtype is.
PRECISIONS = [(kind, torch.float64, 1e-9) for kind in MODEL_TYPES if kind != "gemma2"] + [
    (kind, torch.float32, 1e-4) for kind in MODEL_TYPES
]


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest relative distance of any column [d, n]; a zero column must be met exactly."""
    return float(((actual - expected).norm(dim=0) / expected.norm(dim=0).clamp_min(1e-30)).max())


def bare_states(editable: EditableModel, norm_follows: bool) -> Tensor:
    """h_0 [d, n] of every sample fact, each run alone."""
    states = []
    for request in REQUESTS:
        encoded = encode(editable.tokenizer, request)
        with captured(editable.block(0)) as block, captured(editable.write(0)) as write, torch.no_grad():
            editable.model(input_ids=torch.tensor([encoded.prompt_ids]))
        states.append((write if norm_follows else block).output[0, encoded.subject_last])
    return torch.stack(states, dim=1)


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return lively_editable("gpt2", torch.float64)


@pytest.mark.parametrize(("model_type", "dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("contexts", [(), CONTEXTS], ids=["bare", "contexts"])
def test_batched_and_cached_equals_serial(
    model_type: str, dtype: torch.dtype, tolerance: float, contexts: Sequence[str]
) -> None:
    editable = lively_editable(model_type, dtype)
    targets = optimise_targets(editable, REQUESTS, 0, contexts, SETTINGS)
    serial = [serial_target(editable, request, 0, contexts, SETTINGS) for request in REQUESTS]
    same = [i for i, (_, _, steps) in enumerate(serial) if steps == targets.steps[i]]
    assert len(same) == len(REQUESTS) and len(set(targets.steps)) > 2
    expected = torch.stack([delta for delta, _, _ in serial], dim=1).double()
    assert difference(targets.delta, expected) <= tolerance
    assert targets.loss == pytest.approx([loss for _, loss, _ in serial], rel=tolerance)


@pytest.mark.parametrize("facts_per_pass", [1, 2, 5])
def test_how_a_batch_is_cut_does_not_matter(editable: EditableModel, facts_per_pass: int) -> None:
    whole = optimise_targets(editable, REQUESTS, 0, CONTEXTS, SETTINGS)
    cut = optimise_targets(editable, REQUESTS, 0, CONTEXTS, replace(SETTINGS, facts_per_pass=facts_per_pass))
    assert cut.steps == whole.steps
    assert difference(cut.delta, whole.delta) <= 1e-9


def test_what_else_is_in_the_batch_does_not_matter(editable: EditableModel) -> None:
    whole = optimise_targets(editable, REQUESTS, 0, CONTEXTS, SETTINGS)
    part = optimise_targets(editable, REQUESTS[4:1:-2], 0, CONTEXTS, SETTINGS)
    assert part.steps == whole.steps[4:1:-2]
    assert difference(part.delta, whole.delta[:, [4, 2]]) <= 1e-9


def test_a_fact_that_stopped_is_not_moved_any_more(editable: EditableModel) -> None:
    """The last evaluation never updates, so a run of just as many steps ends with the same bits."""
    whole = optimise_targets(editable, REQUESTS, 0, CONTEXTS, SETTINGS)
    first = min(whole.steps)
    assert 1 < first < SETTINGS.steps
    ended = optimise_targets(editable, REQUESTS, 0, CONTEXTS, replace(SETTINGS, steps=first))
    stopped = [i for i, steps in enumerate(whole.steps) if steps == first]
    assert torch.equal(ended.delta[:, stopped], whole.delta[:, stopped])
    assert [ended.loss[i] for i in stopped] == [whole.loss[i] for i in stopped]


def test_a_stop_means_the_loss_is_below_the_limit(editable: EditableModel) -> None:
    targets = optimise_targets(editable, REQUESTS, 0, CONTEXTS, SETTINGS)
    for loss, steps in zip(targets.loss, targets.steps, strict=True):
        assert loss < SETTINGS.stop if steps < SETTINGS.steps else loss > 0


def test_one_step_only_evaluates(editable: EditableModel) -> None:
    targets = optimise_targets(editable, REQUESTS, 0, CONTEXTS, replace(SETTINGS, steps=1))
    assert targets.steps == (1,) * len(REQUESTS)
    assert not targets.delta.any()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_clamp_holds_for_every_fact(model_type: str) -> None:
    editable = lively_editable(model_type)
    reference = bare_states(editable, editable.after_write(0) is not None).norm(dim=0)
    targets = optimise_targets(editable, REQUESTS, 0, CONTEXTS, replace(SETTINGS, clamp=0.7, stop=0.0))
    relative = targets.delta.norm(dim=0) / reference
    assert relative.max() <= 0.7 * (1 + 1e-5)
    assert relative.max() > 0.69


def test_a_loss_that_is_not_finite_names_its_facts(editable: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FrozenRows.loss

    def poisoned(self: FrozenRows, delta: Tensor, kl: float) -> Tensor:
        bad = torch.zeros(len(delta), dtype=delta.dtype)
        bad[1] = float("nan")
        return plain(self, delta, kl) + bad

    before = fingerprint(editable)
    monkeypatch.setattr(FrozenRows, "loss", poisoned)
    with pytest.raises(SolveError, match="loss") as raised:
        optimise_targets(editable, REQUESTS[:1] * 3, 0, (), SETTINGS)
    assert str(raised.value).count("Ada Quill") == 1
    assert fingerprint(editable) == before


def test_a_gradient_that_is_not_finite_names_its_fact(editable: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FrozenRows.loss

    def poisoned(self: FrozenRows, delta: Tensor, kl: float) -> Tensor:
        return plain(self, delta, kl) + (0 * delta[0]).sum().sqrt()  # is zero, and its slope is not finite

    before = fingerprint(editable)
    monkeypatch.setattr(FrozenRows, "loss", poisoned)
    with pytest.raises(SolveError, match="gradient") as raised:
        optimise_targets(editable, [REQUESTS[0], REQUESTS[2]], 0, (), replace(SETTINGS, stop=0.0))
    assert "Ada Quill" in str(raised.value) and "Bo Lund" not in str(raised.value)
    assert fingerprint(editable) == before


@pytest.mark.parametrize("layer", [0, 1])
def test_weights_that_are_not_finite_give_an_error_and_stay(layer: int) -> None:
    editable = lively_editable("llama")
    with torch.no_grad():
        editable.write(layer).weight[3, 3] = float("nan")
    before = fingerprint(editable)
    with pytest.raises(SolveError, match="Ada Quill"):
        optimise_targets(editable, REQUESTS, 0, CONTEXTS, SETTINGS)
    assert fingerprint(editable) == before


def test_the_highest_layer_can_be_edited(editable: EditableModel) -> None:
    """Nothing reaches later tokens from there, so only a target right after the subject can be learnt."""
    targets = optimise_targets(editable, REQUESTS, 1, (), replace(SETTINGS, stop=0.0))
    serial = [serial_target(editable, request, 1, (), replace(SETTINGS, stop=0.0))[0] for request in REQUESTS]
    assert difference(targets.delta[:, -1:], serial[-1][:, None]) <= 1e-9
    assert targets.delta[:, -1].norm() > 0


def test_a_coarse_dtype_of_the_model_does_not_coarsen_the_optimiser() -> None:
    """Entries of delta are no bfloat16 numbers, and the targets are near those of the same weights in float32."""
    coarse, fine = lively_editable("llama", torch.bfloat16), lively_editable("llama")
    fine.model.load_state_dict(coarse.model.state_dict())
    settings = replace(SETTINGS, stop=0.0, steps=4)
    rough, exact = (optimise_targets(editable, REQUESTS, 0, CONTEXTS, settings) for editable in (coarse, fine))
    assert not torch.equal(rough.delta.bfloat16().double(), rough.delta)
    assert rough.loss == pytest.approx(exact.loss, rel=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"rate": 0.0},
        {"rate": -1.0},
        {"clamp": 0.0},
        {"clamp": float("nan")},
        {"decay": -0.1},
        {"kl": float("inf")},
        {"stop": -1.0},
        {"facts_per_pass": 0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="make no sense"):
        TargetSettings(**wrong)  # type: ignore[arg-type]
