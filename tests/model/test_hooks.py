"""What runs inside a block is seen, replaced, resumed or stopped, and nothing of it is left afterwards."""

from __future__ import annotations

import pytest
import torch

from lifelong_edit.errors import ModelError
from lifelong_edit.model.hooks import captured, replaced_output
from tests.models import ATTENTION, MODEL_TYPES, small_editable

IDS = torch.tensor([[5, 9, 40, 7, 100, 21], [3, 3, 60, 61, 62, 2]])


def logits(editable, ids=IDS):
    return editable.model(input_ids=ids).logits


def traces(editable):
    """Every hook and patched forward left on the model."""
    return [
        module
        for module in editable.model.modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    ]


@pytest.fixture(params=MODEL_TYPES)
def editable(request):
    return small_editable(request.param, torch.float64)


@pytest.mark.parametrize(("model_type", "attention"), ATTENTION)
@pytest.mark.parametrize("layer", [0, 1])
def test_resuming_from_a_block_gives_the_logits_of_the_whole_pass(model_type, attention, layer):
    editable = small_editable(model_type, torch.float64, attention=attention)
    with torch.no_grad(), captured(editable.block(layer)) as seen:
        expected = logits(editable)
    with torch.no_grad(), editable.resumed_after(layer, seen.output), captured(editable.write(0)) as skipped:
        torch.testing.assert_close(logits(editable), expected, rtol=0, atol=0)
    with pytest.raises(ModelError, match="did not run"):
        _ = skipped.input
    assert not traces(editable)


def test_resuming_works_where_blocks_return_tuples(editable):
    with captured(editable.block(0)) as seen:
        expected = logits(editable)
    vars(editable)["_blocks_return_tuples"] = True
    with editable.resumed_after(0, seen.output):
        output = editable.block(0)(torch.zeros_like(seen.output))
    assert isinstance(output, tuple) and torch.equal(output[0], seen.output)
    assert expected.shape[:2] == IDS.shape


def test_resuming_refuses_hidden_states_of_another_shape(editable):
    with captured(editable.block(0)) as seen:
        logits(editable)
    with pytest.raises(ModelError, match="cannot resume"), editable.resumed_after(0, seen.output[:, 1:]):
        logits(editable)
    assert not traces(editable)


def test_nested_resumption_ends_with_the_outer_one(editable):
    with captured(editable.block(0)) as seen:
        expected = logits(editable)
    with editable.resumed_after(0, seen.output):
        with editable.resumed_after(1, torch.zeros_like(seen.output)):
            assert not torch.allclose(logits(editable), expected)
        assert torch.equal(logits(editable), expected)
    assert not traces(editable)


def test_adding_to_the_write_is_adding_to_the_value(editable):
    """The block's output after a change of the write, rebuilt from its parts: what a target vector relies on."""
    delta = torch.linspace(-1, 1, 32, dtype=torch.float64)
    with captured(editable.write(0)) as write, captured(editable.block(0)) as block:
        logits(editable)
    norm = editable.after_write(0) or torch.nn.Identity()
    rebuilt = block.output - norm(write.output) + norm(write.output + delta)
    with replaced_output(editable.write(0), lambda out: out + delta), captured(editable.block(0)) as changed:
        logits(editable)
    torch.testing.assert_close(changed.output, rebuilt, rtol=0, atol=1e-12)


def test_the_head_sees_only_the_asked_positions(editable):
    expected = logits(editable)
    rows, positions = torch.tensor([1, 0, 1]), torch.tensor([4, 0, 5])
    with editable.head_at(rows, positions):
        found = logits(editable)
    assert found.shape == (1, 3, expected.shape[-1])
    torch.testing.assert_close(found[0], expected[rows, positions], rtol=0, atol=1e-12)
    assert torch.equal(logits(editable), expected)


def test_stopping_leaves_the_rest_uncomputed(editable):
    with captured(editable.write(0)) as seen, captured(editable.block(1)) as later, editable.stop_after(0):
        logits(editable)
        pytest.fail("the pass went on")
    assert seen.output.shape == (2, 6, 32)
    with pytest.raises(ModelError, match="did not run"):
        _ = later.output
    assert not traces(editable)


def test_capture_inside_a_stop_still_sees_the_module(editable):
    with editable.stop_after(1), captured(editable.write(1)) as seen:
        logits(editable)
    assert seen.input.shape == (2, 6, 64)


def test_the_inner_of_two_stops_ends_only_its_own_block(editable):
    with editable.stop_after(1):
        with editable.stop_after(0):
            logits(editable)
        with pytest.raises(ModelError, match="did not run"), captured(editable.block(1)) as seen:
            _ = seen.output
        logits(editable)
        pytest.fail("the outer stop did not come")
    assert not traces(editable)


def test_the_outer_of_two_stops_passes_through_the_inner(editable):
    reached = []
    with editable.stop_after(0):
        with editable.stop_after(1):
            logits(editable)
        reached.append("between")
    assert not reached
    assert not traces(editable)


def test_a_stop_that_never_comes_is_an_error(editable):
    with pytest.raises(ModelError, match="never reached"), editable.stop_after(1):
        pass
    assert not traces(editable)


def test_hooks_are_gone_after_an_exception(editable):
    hidden = torch.zeros(2, 6, 32, dtype=torch.float64)
    write = editable.write(0)
    for touch in (
        lambda: captured(write),
        lambda: replaced_output(write, lambda out: out),
        lambda: editable.resumed_after(1, hidden),
        lambda: editable.head_at(torch.tensor([0]), torch.tensor([0])),
        lambda: editable.stop_after(1),
    ):
        with pytest.raises(ZeroDivisionError), touch():
            raise ZeroDivisionError
        assert not traces(editable)


def test_an_edit_must_keep_the_shape(editable):
    with pytest.raises(ModelError, match="Keep its shape"), replaced_output(editable.write(0), lambda out: out[:, 1:]):
        logits(editable)


def test_tuples_keep_what_stands_beside_the_hidden_states():
    class Pair(torch.nn.Module):
        def forward(self, hidden):
            return hidden, "beside"

    module, hidden = Pair(), torch.ones(1, 2, 3)
    with captured(module) as seen, replaced_output(module, lambda out: out + 1):
        output = module(hidden=hidden)
    assert torch.equal(output[0], hidden + 1) and output[1] == "beside"
    assert torch.equal(seen.input, hidden) and torch.equal(seen.output, hidden)


def test_anything_but_hidden_states_is_refused():
    module = torch.nn.Linear(3, 3)
    with pytest.raises(ModelError, match=r"passes \(2, 3\)"), captured(module):
        module(torch.ones(2, 3))
