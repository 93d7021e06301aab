"""Rows lined up on their subjects, computed once up to there and finished from there, give what each gives alone."""

from __future__ import annotations

import pytest
import torch

from lifelong_edit.errors import ModelError
from lifelong_edit.model.hooks import captured, replaced_output
from lifelong_edit.model.tokens import cropped, fresh_cache, pad_rows, selected, whole_cache
from tests.models import ATTENTION, small_editable

SEQUENCES = [
    [11, 45, 60, 7, 9],
    [8, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 70, 71, 72],  # longer than the sliding windows of gemmas
    [99],
    [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22],
]
PIVOTS = [2, 9, 0, 1]
LAYER = 0


def whole(editable, rows, cache=None):
    return editable.model(
        input_ids=rows.ids,
        attention_mask=rows.mask,
        position_ids=rows.position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
    ).logits


def tail(editable, rows, past, hidden, layer=LAYER):
    with editable.resumed_after(layer, hidden):
        return editable.model(
            input_ids=rows.ids[:, rows.pivot :],
            attention_mask=rows.mask,
            position_ids=rows.position_ids[:, rows.pivot :],
            past_key_values=fresh_cache(past),
            use_cache=True,
        ).logits


def prepared(editable, rows, layer=LAYER):
    """The past before the pivot, and the output of a block from the pivot on."""
    cache = whole_cache()
    with torch.no_grad(), captured(editable.block(layer)) as seen:
        whole(editable, rows, cache)
    return cropped(cache, rows.pivot), seen.output[:, rows.pivot :]


@pytest.fixture(params=ATTENTION, ids="-".join)
def editable(request):
    """In float64 but where eager attention rounds its softmax to float32, whatever the model's dtype."""
    model_type, attention = request.param
    exact = model_type == "gpt2" or attention == "sdpa"
    return small_editable(model_type, torch.float64 if exact else torch.float32, attention=attention)


@pytest.fixture
def tolerance(editable):
    return {"rtol": 0, "atol": 1e-10 if editable.dtype == torch.float64 else 1e-5}


@pytest.fixture
def rows(editable):
    return pad_rows(SEQUENCES, PIVOTS, editable.pad_id)


def alone(editable, sequence):
    with torch.no_grad():
        return editable.model(input_ids=torch.tensor([sequence])).logits[0]


def test_the_pivots_meet_and_positions_count_from_the_first_token(rows):
    for row, (sequence, pivot) in enumerate(zip(SEQUENCES, PIVOTS, strict=True)):
        start = int(rows.shifts[row])
        own = slice(start, start + len(sequence))
        assert start + pivot == rows.pivot == 9
        assert rows.ids[row, own].tolist() == sequence
        assert rows.position_ids[row, own].tolist() == list(range(len(sequence)))
        assert rows.mask[row].tolist() == [0] * start + [1] * (rows.ids.shape[1] - start)
    assert int(rows.position_ids.min()) == 0 and int(rows.position_ids.max()) == 13


def test_padded_rows_give_what_each_gives_alone(editable, rows, tolerance):
    with torch.no_grad():
        together = whole(editable, rows)
    assert torch.isfinite(together).all()
    for row, sequence in enumerate(SEQUENCES):
        start = int(rows.shifts[row])
        found = together[row, start : start + len(sequence)]
        torch.testing.assert_close(found, alone(editable, sequence), **tolerance)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_tail_behind_its_past_gives_what_each_row_gives_alone(editable, rows, layer, tolerance):
    past, hidden = prepared(editable, rows, layer)
    with torch.no_grad():
        found = tail(editable, rows, past, hidden, layer)
        assert torch.equal(found, tail(editable, rows, past, hidden, layer))
    assert torch.isfinite(found).all()
    for row, (sequence, pivot) in enumerate(zip(SEQUENCES, PIVOTS, strict=True)):
        expected = alone(editable, sequence)[pivot:]
        torch.testing.assert_close(found[row, : len(expected)], expected, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_left_padding_gives_no_nan(editable, rows, dtype):
    editable.model.to(dtype)
    past, hidden = prepared(editable, rows)
    with torch.no_grad():
        assert torch.isfinite(tail(editable, rows, past, hidden)).all()


def test_a_selection_of_rows_gives_those_rows(editable, rows, tolerance):
    past, hidden = prepared(editable, rows)
    some = torch.tensor([1, 3, 1])
    few = pad_rows([SEQUENCES[i] for i in some], [PIVOTS[i] for i in some], editable.pad_id)
    with torch.no_grad():
        expected = tail(editable, rows, past, hidden)[some]
        found = tail(editable, few, selected(past, some), hidden[some])
    torch.testing.assert_close(found, expected, **tolerance)


def test_gradients_through_the_tail_are_those_of_the_whole_pass(editable, rows, tolerance):
    """A vector added to the write at each row's pivot, as target optimisation does it."""
    past, output = prepared(editable, rows)
    with torch.no_grad(), captured(editable.write(LAYER)) as write:
        whole(editable, rows)
    value = write.output[:, rows.pivot]
    everyone = torch.arange(len(SEQUENCES))
    last = torch.tensor([len(sequence) - 1 for sequence in SEQUENCES]) + rows.shifts
    deltas = torch.linspace(-0.5, 0.5, 4 * 32, dtype=editable.dtype).reshape(4, 32).requires_grad_()
    norm = editable.after_write(LAYER) or torch.nn.Identity()
    first = output[:, 0] - norm(value) + norm(value + deltas)
    with editable.head_at(everyone, last - rows.pivot):
        short = tail(editable, rows, past, torch.cat([first[:, None], output[:, 1:]], dim=1))

    at_pivot = (torch.arange(rows.ids.shape[1]) == rows.pivot).to(editable.dtype)[:, None]
    with (
        replaced_output(editable.write(LAYER), lambda out: out + at_pivot * deltas[:, None]),
        editable.head_at(everyone, last),
    ):
        long = whole(editable, rows)

    torch.testing.assert_close(short, long, **tolerance)
    gradients = [torch.autograd.grad(out.log_softmax(-1)[..., 5].sum(), deltas)[0] for out in (short, long)]
    assert (gradients[0].abs().amax(dim=1) > 1e-6).all()
    torch.testing.assert_close(*gradients, **tolerance)


def test_a_pivot_in_the_first_column_needs_no_past(editable, tolerance):
    rows = pad_rows(SEQUENCES, [0, 0, 0, 0], editable.pad_id)
    past, hidden = prepared(editable, rows)
    with torch.no_grad():
        torch.testing.assert_close(tail(editable, rows, past, hidden), whole(editable, rows), **tolerance)


def test_a_cache_that_a_sliding_window_has_cut_is_refused():
    editable = small_editable("gemma2")
    rows = pad_rows(SEQUENCES, PIVOTS, editable.pad_id)
    cache = editable.model(input_ids=rows.ids, attention_mask=rows.mask, use_cache=True).past_key_values
    with pytest.raises(ModelError, match="whole_cache"):
        cropped(cache, rows.pivot)


@pytest.mark.parametrize(("sequences", "pivots"), [([], []), ([[1, 2]], [2]), ([[1], [2, 3]], [0, -1]), ([[]], [0])])
def test_rows_without_their_pivot_are_refused(sequences, pivots):
    with pytest.raises(ModelError, match="pivot"):
        pad_rows(sequences, pivots, 0)
