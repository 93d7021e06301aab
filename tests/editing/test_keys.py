"""Keys are the edited weight's inputs where subjects end, averaged over contexts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lifelong_edit.editing.keys import check_lengths, collect_keys, prefixed
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import encode, slot_ids
from tests.models import MODEL_TYPES
from tests.samples import CONTEXTS, REQUESTS, lively_editable


def never(module: nn.Module, _args: object) -> None:
    """A pre-hook for what must not run."""
    raise AssertionError(f"{type(module).__name__} ran")


def input_at_subject(editable: EditableModel, request: EditRequest, layer: int, prefix: str) -> Tensor:
    """The edited weight's input [d_in] from a pass over this one prompt."""
    encoded = encode(editable.tokenizer, request, prefix=prefix)
    with captured(editable.write(layer)) as seen, torch.no_grad():
        editable.model(input_ids=torch.tensor([encoded.prompt_ids]))
    return seen.input[0, encoded.subject_last].double()


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return lively_editable("llama", torch.float64)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_key_is_the_weighted_mean_of_captured_inputs(model_type: str, layer: int) -> None:
    editable = lively_editable(model_type, torch.float32 if model_type == "gemma2" else torch.float64)
    keys = collect_keys(editable, REQUESTS, layer, prefixed(CONTEXTS))
    for key, request in zip(keys.T, REQUESTS, strict=True):
        bare, *others = (input_at_subject(editable, request, layer, prefix) for prefix in ("", *CONTEXTS))
        expected = bare / 2 + torch.stack(others).mean(dim=0) / 2
        # gemma2 attends eagerly, which wants float32: behind its large last block rounding was 6e-6 of a key.
        assert (key - expected).norm() <= (1e-4 if model_type == "gemma2" else 1e-12) * expected.norm()


def test_facts_of_one_slot_have_bit_equal_keys(editable: EditableModel) -> None:
    """What stands behind the subject, the target and the rest of the batch do not reach the key."""
    other = EditRequest("{} works in the town of", "Ada Quill", "Oran near the river")
    keys = collect_keys(editable, [REQUESTS[1], REQUESTS[0], other, REQUESTS[3]], 0, prefixed(CONTEXTS))
    assert torch.equal(keys[:, 1], keys[:, 2])
    assert not torch.equal(keys[:, 0], keys[:, 1])


def test_keys_do_not_depend_on_the_batch(editable: EditableModel) -> None:
    together = collect_keys(editable, REQUESTS, 0, prefixed(CONTEXTS))
    alone = torch.cat([collect_keys(editable, [request], 0, prefixed(CONTEXTS)) for request in REQUESTS], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_later_layers_and_the_head_never_run(editable: EditableModel) -> None:
    handles = [
        module.register_forward_pre_hook(never)
        for module in (editable.block(1), editable.model.get_output_embeddings())
    ]
    try:
        collect_keys(editable, REQUESTS, 0, prefixed(CONTEXTS))
    finally:
        for handle in handles:
            handle.remove()


def test_a_key_that_is_not_finite_names_its_fact() -> None:
    editable = lively_editable("llama")
    own, others = (
        {token for request in requests for token in slot_ids(encode(editable.tokenizer, request))}
        for requests in (REQUESTS[3:4], REQUESTS[:3])
    )
    with torch.no_grad():
        editable.model.get_input_embeddings().weight[min(own - others)] = float("nan")
    with pytest.raises(SolveError, match="key") as raised:
        collect_keys(editable, REQUESTS[:4], 0, prefixed(()))
    assert "Norvik" in str(raised.value) and "Ada" not in str(raised.value)


def test_lengths_count_prefix_prompt_and_target(editable: EditableModel) -> None:
    check_lengths(editable, REQUESTS, prefixed(CONTEXTS))
    long = replace(REQUESTS[0], target_new="o " * 90)
    with pytest.raises(RequestError, match=r"'ada'.*96"):
        check_lengths(editable, [*REQUESTS[1:], long], prefixed(()))
    with pytest.raises(RequestError, match="tokens"):
        check_lengths(editable, REQUESTS, prefixed(["The river " * 30]))
