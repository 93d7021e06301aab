"""What stored keys and values say of who is behind an answer, or behind what is missing of a fact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lifelong_edit.algebra.system import solve_whole
from lifelong_edit.algebra.telemetry import residual_parts
from lifelong_edit.kinds.deviation import ROUNDING
from lifelong_edit.kinds.kernel.state import EditedLayer
from lifelong_edit.kinds.kind import Head
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import tokens

if TYPE_CHECKING:
    from lifelong_edit.kinds.kernel.kernel import Kernel

TINY = 1e-300  # keeps a share of nothing from being a division by zero


def shares(kernel: Kernel, head: Head, prompt: str) -> tuple[dict[str, float], float]:
    """To each slot with active facts its share of D K over the prompt's tokens, and |D K| / |W_0 K|.

    K [d_in, T] are the inputs of the edited weights. The shares sum to 1; one may be negative, which works against the
    others.
    """
    state, slots = kernel.state_of(head), list(head.history.slots())
    totals, written, change = torch.zeros(len(slots), dtype=torch.float64), 0.0, 0.0
    with kernel.showing(state) as editable:
        for number, layer in state.layers.items():
            inputs = _inputs(editable, number, prompt)  # K  [d_in, T]
            parts, total = _parts(layer, inputs, slots)
            totals, change = totals + parts.cpu(), change + total
            written += float((layer.base.double() @ inputs).square().sum())
    found = dict(zip(slots, (totals / max(change, TINY)).tolist(), strict=True))
    return found, (change / max(written, TINY)) ** 0.5


def suspects(kernel: Kernel, head: Head, fact: str) -> tuple[dict[int, float], int, float]:
    """To each batch its share of what the weights miss of a fact's value, the fact's own batch, and how much it is.

    A share is <part, missing> / |missing|^2 over the edited layers; they sum to 1, and are 0 where nothing but rounding
    is missing. How much is |v - W k| / |v - W_0 k|.
    """
    state = kernel.state_of(head)
    value = head.history.last_columns()[head.history.facts[fact].slot]
    found: dict[int, float] = {}
    square = asked = 0.0
    for layer in state.layers.values():
        position = [placed.value for placed in layer.placed].index(value)
        parts = residual_parts(list(layer.columns.values()), list(layer.pairs.values()), position)  # [d_out, batches]
        missing = parts.sum(dim=1)  # [d_out]
        for seq, along in zip(layer.batches, (parts.T @ missing).tolist(), strict=True):
            found[seq] = found.get(seq, 0.0) + along
        square += float(missing.square().sum())
        asked += float(layer.whole.base_residuals[:, position].square().sum())
    own = next(seq for seq, batch in state.one.batches.items() if any(placed.value == value for placed in batch))
    how_much = (square / max(asked, TINY)) ** 0.5
    return {seq: along / square if how_much > ROUNDING else 0.0 for seq, along in found.items()}, own, how_much


def _parts(layer: EditedLayer, inputs: Tensor, slots: Sequence[str]) -> tuple[Tensor, float]:
    """<c_s, D K> to every slot s, with c_s the slot's share of D K = X Q'K [d_out, T]; and |D K|^2, their sum."""
    columns = layer.whole
    solution = solve_whole(list(layer.columns.values()), layer.memory)  # X  [d_out, n]
    answers = columns.whitened.T @ inputs  # Q'K  [n, T]
    moved = solution @ answers  # D K  [d_out, T]
    parts = ((solution.T @ moved) * answers).sum(dim=1)  # [n]
    position = torch.tensor([slots.index(placed.value.slot) for placed in layer.placed], device=parts.device)
    return parts.new_zeros(len(slots)).index_add(0, position, parts), float(moved.square().sum())


@torch.no_grad()
def _inputs(editable: EditableModel, number: int, prompt: str) -> Tensor:
    """What the edited weight is given at every token of the prompt [d_in, T], float64."""
    ids = torch.tensor([tokens(editable.texts, editable.texts.rule.asked(prompt))[0]], device=editable.device)
    with captured(editable.write(number)) as seen, editable.stop_after(number):
        editable.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return seen.input[0].double().T
