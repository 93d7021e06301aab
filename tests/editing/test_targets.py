"""Target vectors of a batch are those of the published computation, slot by slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lifelong_edit.editing.keys import prefixed
from lifelong_edit.editing.rows import FrozenRows
from lifelong_edit.editing.targets import Targets, TargetSettings, optimise_targets
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import encode
from serial_targets import serial_target
from tests.models import MODEL_TYPES
from tests.samples import CONTEXTS, REQUESTS, lively_editable

SETTINGS = TargetSettings(steps=15, rate=0.5, clamp=2.0, decay=0.002, stop=5.3)  # some stop, others meet the clamp
ALONE = [[request] for request in REQUESTS]
SLOTS = [
    [
        REQUESTS[0],
        EditRequest("{} lives in", "Ada Quill", "Oran near the river"),
        EditRequest("{} has worked for the company", "Ada Quill", "Norvik"),
    ],
    [REQUESTS[5]],
    [REQUESTS[2], EditRequest("Where does {} live? And where was he born? In", "Bo Lund", "Tarsis")],
    [REQUESTS[1]],
]
# gemma2 attends eagerly only, and eager attention takes its softmax in float32 whatever the model's dtype is.
# In float32, 25 steps of Adam carry rounding on, by how much depends on the processor: 1.2e-4 was the most so far.
PRECISIONS = [(kind, torch.float64, 1e-9) for kind in MODEL_TYPES if kind != "gemma2"] + [
    (kind, torch.float32, 1e-3) for kind in MODEL_TYPES
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
@pytest.mark.parametrize(
    ("groups", "contexts", "stop"),
    [(ALONE, (), 5.3), (ALONE, CONTEXTS, 5.3), (SLOTS, CONTEXTS, 5.9)],
    ids=["bare", "contexts", "slots"],
)
def test_batched_and_cached_equals_serial(
    model_type: str,
    dtype: torch.dtype,
    tolerance: float,
    groups: list[list[EditRequest]],
    contexts: Sequence[str],
    stop: float,
) -> None:
    editable, settings = lively_editable(model_type, dtype), replace(SETTINGS, stop=stop)
    targets = optimise_targets(editable, groups, 0, contexts, settings)
    serial = [serial_target(editable, group, 0, contexts, settings) for group in groups]
    assert targets.steps == tuple(steps for _, _, steps in serial) and len(set(targets.steps)) > 1
    expected = torch.stack([delta for delta, _, _ in serial], dim=1).double()
    assert difference(targets.delta, expected) <= tolerance
    assert targets.loss == pytest.approx([loss for _, loss, _ in serial], rel=tolerance)


@pytest.mark.parametrize("facts_per_pass", [1, 3, 5])
def test_how_a_batch_is_cut_does_not_matter(
    editable: EditableModel, facts_per_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, passes = FrozenRows.run, []

    def noted(editable: EditableModel, groups: list[list[EditRequest]], *rest: Any) -> FrozenRows:
        passes.append([len(group) for group in groups])
        return plain(editable, groups, *rest)

    whole = optimise_targets(editable, SLOTS, 0, CONTEXTS, SETTINGS)
    monkeypatch.setattr(FrozenRows, "run", noted)
    cut = optimise_targets(editable, SLOTS, 0, CONTEXTS, replace(SETTINGS, facts_per_pass=facts_per_pass))
    assert cut.steps == whole.steps
    assert difference(cut.delta, whole.delta) <= 1e-9
    assert sorted(size for sizes in passes for size in sizes) == [1, 1, 2, 3] and len(passes) > 1
    assert all(sum(sizes) <= facts_per_pass or len(sizes) == 1 for sizes in passes)


def test_what_else_is_in_the_batch_does_not_matter(editable: EditableModel) -> None:
    whole = optimise_targets(editable, SLOTS + ALONE, 0, CONTEXTS, SETTINGS)
    part = optimise_targets(editable, SLOTS[2::-2], 0, CONTEXTS, SETTINGS)
    assert part.steps == (whole.steps[2], whole.steps[0])
    assert difference(part.delta, whole.delta[:, [2, 0]]) <= 1e-9


def test_facts_of_a_slot_count_alike_in_any_order(editable: EditableModel) -> None:
    """The objective is the mean of the facts': all of them twice, or in another order, is the same."""
    group = SLOTS[0]
    targets = optimise_targets(editable, [group, group[::-1], group + group], 0, CONTEXTS, SETTINGS)
    assert len(set(targets.steps)) == 1
    assert difference(targets.delta[:, 1:], targets.delta[:, :1]) <= 1e-9


def test_a_slot_stops_by_its_worst_fact(editable: EditableModel) -> None:
    """One evaluation earlier the mean of its facts was below the limit already, and one fact was not."""
    frozen, settings = FrozenRows.run(editable, SLOTS[:1], (0,), prefixed(CONTEXTS)), replace(SETTINGS, stop=6.4)

    def objectives(targets: Targets) -> Tensor:
        cost = settings.decay * targets.delta.norm() / frozen.reference_norm**2
        return frozen.loss(targets.delta.T, settings.kl).detach() + cost

    stopped = optimise_targets(editable, SLOTS[:1], 0, CONTEXTS, settings)
    assert 1 < stopped.steps[0] < settings.steps
    earlier = replace(settings, steps=stopped.steps[0] - 1, stop=0.0)
    before = objectives(optimise_targets(editable, SLOTS[:1], 0, CONTEXTS, earlier))
    assert before.mean() < settings.stop <= before.max()
    assert objectives(stopped).max() < settings.stop
    assert stopped.loss == pytest.approx([objectives(stopped).max().item()])


@pytest.mark.parametrize("group", [(), REQUESTS[:2], [*SLOTS[0], REQUESTS[2]]], ids=len)
def test_facts_of_different_slots_are_refused_by_name(editable: EditableModel, group: Sequence[EditRequest]) -> None:
    before = fingerprint(editable)
    with pytest.raises(RequestError, match="do not share a slot") as raised:
        optimise_targets(editable, [*SLOTS, group], 0, (), SETTINGS)
    assert all(request.question in str(raised.value) for request in group)
    assert fingerprint(editable) == before


def test_a_fact_that_stopped_is_not_moved_any_more(editable: EditableModel) -> None:
    """The last evaluation never updates, so a run of just as many steps ends with the same bits."""
    whole = optimise_targets(editable, ALONE, 0, CONTEXTS, SETTINGS)
    first = min(whole.steps)
    assert 1 < first < SETTINGS.steps
    ended = optimise_targets(editable, ALONE, 0, CONTEXTS, replace(SETTINGS, steps=first))
    stopped = [i for i, steps in enumerate(whole.steps) if steps == first]
    assert torch.equal(ended.delta[:, stopped], whole.delta[:, stopped])
    assert [ended.loss[i] for i in stopped] == [whole.loss[i] for i in stopped]


def test_a_stop_means_the_loss_is_below_the_limit(editable: EditableModel) -> None:
    targets = optimise_targets(editable, ALONE, 0, CONTEXTS, SETTINGS)
    for loss, steps in zip(targets.loss, targets.steps, strict=True):
        assert loss < SETTINGS.stop if steps < SETTINGS.steps else loss > 0


def test_one_step_only_evaluates(editable: EditableModel) -> None:
    targets = optimise_targets(editable, ALONE, 0, CONTEXTS, replace(SETTINGS, steps=1))
    assert targets.steps == (1,) * len(REQUESTS)
    assert not targets.delta.any()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_clamp_holds_for_every_fact(model_type: str) -> None:
    editable = lively_editable(model_type)
    reference = bare_states(editable, editable.after_write(0) is not None).norm(dim=0)
    targets = optimise_targets(editable, ALONE, 0, CONTEXTS, replace(SETTINGS, clamp=0.7, stop=0.0))
    relative = targets.delta.norm(dim=0) / reference
    assert relative.max() <= 0.7 * (1 + 1e-5)
    assert relative.max() > 0.69


def test_a_loss_that_is_not_finite_names_its_fact(editable: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FrozenRows.loss

    def poisoned(self: FrozenRows, delta: Tensor, kl: float) -> Tensor:
        loss = plain(self, delta, kl)
        return loss + torch.tensor([0.0, float("nan")] + [0.0] * (len(loss) - 2), dtype=loss.dtype)

    before = fingerprint(editable)
    monkeypatch.setattr(FrozenRows, "loss", poisoned)
    with pytest.raises(SolveError, match="loss") as raised:
        optimise_targets(editable, SLOTS[:1], 0, (), SETTINGS)
    assert [request.question in str(raised.value) for request in SLOTS[0]] == [False, True, False]
    assert fingerprint(editable) == before


def test_a_gradient_that_is_not_finite_names_its_slot(editable: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FrozenRows.loss

    def poisoned(self: FrozenRows, delta: Tensor, kl: float) -> Tensor:
        return plain(self, delta, kl) + (0 * delta[0]).sum().sqrt()  # is zero, and its slope is not finite

    before = fingerprint(editable)
    monkeypatch.setattr(FrozenRows, "loss", poisoned)
    with pytest.raises(SolveError, match="gradient") as raised:
        optimise_targets(editable, [SLOTS[0], SLOTS[2]], 0, (), replace(SETTINGS, stop=0.0))
    assert all(request.question in str(raised.value) for request in SLOTS[0])
    assert "Bo Lund" not in str(raised.value)
    assert fingerprint(editable) == before


@pytest.mark.parametrize("layer", [0, 1])
def test_weights_that_are_not_finite_give_an_error_and_stay(layer: int) -> None:
    editable = lively_editable("llama")
    with torch.no_grad():
        editable.write(layer).weight[3, 3] = float("nan")
    before = fingerprint(editable)
    with pytest.raises(SolveError, match="Ada Quill"):
        optimise_targets(editable, ALONE, 0, CONTEXTS, SETTINGS)
    assert fingerprint(editable) == before


def test_the_highest_layer_can_be_edited(editable: EditableModel) -> None:
    """Nothing reaches later tokens from there, so only a target right after the subject can be learnt."""
    targets = optimise_targets(editable, ALONE, 1, (), replace(SETTINGS, stop=0.0))
    serial = [serial_target(editable, [request], 1, (), replace(SETTINGS, stop=0.0))[0] for request in REQUESTS]
    assert difference(targets.delta[:, -1:], serial[-1][:, None]) <= 1e-9
    assert targets.delta[:, -1].norm() > 0


def test_a_coarse_dtype_of_the_model_does_not_coarsen_the_optimiser() -> None:
    """Entries of delta are no bfloat16 numbers, and the targets are near those of the same weights in float32."""
    coarse, fine = lively_editable("llama", torch.bfloat16), lively_editable("llama")
    fine.model.load_state_dict(coarse.model.state_dict())
    settings = replace(SETTINGS, stop=0.0, steps=4)
    rough, exact = (optimise_targets(editable, ALONE, 0, CONTEXTS, settings) for editable in (coarse, fine))
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
