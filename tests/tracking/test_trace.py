"""Causal tracing where the outcome is known: what restoring must bring back, and what it cannot."""

from __future__ import annotations

import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.trace import causal_trace
from tests.models import MODEL_TYPES, small_editable
from tests.samples import REQUESTS


def first_token(editable: EditableModel, request: EditRequest) -> float:
    ids = editable.tokenizer(request.question, return_tensors="pt").input_ids
    target = editable.tokenizer(" " + request.target_new, add_special_tokens=False).input_ids[0]
    with torch.no_grad():
        return float(editable.model(ids).logits[0, -1].float().softmax(-1)[target])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_last_state_brings_everything_back(model_type: str) -> None:
    editable = small_editable(model_type)
    requests = [request for request in REQUESTS if not request.prompt.endswith("{}")]
    trace = causal_trace(editable, requests, samples=3)
    assert trace.clean == pytest.approx(sum(first_token(editable, r) for r in requests) / len(requests), rel=1e-4)
    assert trace.prompt_last[-1] == pytest.approx(trace.clean, rel=1e-4)
    assert trace.subject_last[-1] == pytest.approx(trace.corrupted, rel=1e-4)  # no block is left to read it
    assert trace.recovered()[1][-1] == pytest.approx(1.0, rel=1e-4)
    assert len(trace.subject_last) == len(trace.prompt_last) == editable.layers


def test_without_noise_nothing_is_lost() -> None:
    trace = causal_trace(small_editable("llama"), REQUESTS, samples=2, sigmas=0.0)
    for share in (*trace.subject_last, *trace.prompt_last, trace.corrupted):
        assert share == pytest.approx(trace.clean, rel=1e-5)


def test_noise_falls_on_the_subject_only() -> None:
    editable = small_editable("llama")
    seen: list[torch.Tensor] = []
    handle = editable.block(0).register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach()))
    try:
        causal_trace(editable, [REQUESTS[2]], samples=2)
    finally:
        handle.remove()
    ids = editable.tokenizer(REQUESTS[2].question, return_offsets_mapping=True)
    start = REQUESTS[2].subject_start
    end = start + len(REQUESTS[2].subject)
    inside = [a < end and b > start for a, b in ids.offset_mapping]
    for hidden in seen:
        moved = (hidden[1:] != hidden[:1]).any(-1)  # [rows, T]
        assert moved.tolist() == [inside] * len(moved)


def test_a_seed_gives_one_trace() -> None:
    editable = small_editable("llama")
    one, again, other = (causal_trace(editable, REQUESTS, samples=2, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_nothing_to_trace_is_an_error() -> None:
    with pytest.raises(RequestError, match="at least one fact"):
        causal_trace(small_editable("llama"), [])
