"""From target vectors to one delta a layer: a single layer takes the whole residual, several share it (MEMIT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.algebra.columns import Columns, Pair
from lifelong_edit.algebra.objective import Memory, append, base_residuals, materialise
from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.editing.keys import check_finite, collect_keys
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.rows import pad_rows
from lifelong_edit.model.subject import encode, slot_ids


@dataclass(frozen=True)
class LayerState:
    """One edited layer before a batch: base weight W_0 [d_out, d_in], its metric, the pairs of earlier batches."""

    base: Tensor
    metric: Metric
    pairs: tuple[Pair, ...]
    ridge: float

    @property
    def earlier(self) -> Pair:
        """All pairs as one."""
        return Pair.concatenate([Pair.empty(*self.base.shape), *self.pairs])


@dataclass(frozen=True)
class LayerEdit:
    """What a batch adds to one layer: its columns, its delta, and the weight [d_out, d_in] it leads to, float64."""

    columns: Columns
    pair: Pair
    weight: Tensor


def check_spreadable(editable: EditableModel, layers: Sequence[int]) -> None:
    """Several layers share a residual only where a written vector is added to the stream as it is."""
    if len(layers) > 1 and any(editable.after_write(layer) is not None for layer in layers):
        raise RequestError(
            f"This model normalises what its MLPs write, so a residual cannot be spread over layers {list(layers)}. "
            "Edit one layer."
        )


def spread(
    editable: EditableModel,
    requests: Sequence[EditRequest],
    names: Sequence[str],
    delta: Tensor,
    optimised_on_base: bool,
    states: Mapping[int, LayerState],
    contexts: Sequence[str],
    memory: Memory,
    amplification_limit: float,
) -> dict[int, LayerEdit]:
    """The edit of every layer for target deltas `delta` [d_out, n] at the highest; the model is left as it was.

    With one layer the residual is delta itself, on the weights it was optimised on. With several, every layer takes
    an equal share of what is still missing of the wanted hidden state, on the model whose lower layers already hold
    their share (MEMIT, arXiv 2210.07229).
    """
    layers = sorted(states)
    edits: dict[int, LayerEdit] = {}
    with ExitStack() as stack:
        wanted = _wanted_state(editable, requests, delta, optimised_on_base, states) if len(layers) > 1 else delta
        for number, layer in enumerate(layers):
            state = states[layer]
            keys = collect_keys(editable, requests, layer, contexts)
            if len(layers) > 1:
                missing = (wanted - subject_states(editable, requests, layers[-1])) / (len(layers) - number)
                frozen = base_residuals(missing, keys, [state.earlier])
            else:
                frozen = delta if optimised_on_base else base_residuals(delta, keys, [state.earlier])
            check_finite(frozen, requests, "residual")
            ridge = torch.full((len(requests),), state.ridge, dtype=torch.float64)
            columns = Columns(keys, state.metric.whiten(keys, names), frozen, ridge, tuple(names))
            pair = append(columns, state.earlier, memory, amplification_limit)
            weight = materialise(state.base, (*state.pairs, pair))
            edits[layer] = LayerEdit(columns, pair, weight)
            if layer != layers[-1]:
                stack.enter_context(editable.rewritten({layer: weight}))
    return edits


@torch.no_grad()
def subject_states(editable: EditableModel, requests: Sequence[EditRequest], layer: int) -> Tensor:
    """Hidden states [d, n] after block `layer` at the subject's last token of the bare prompts, float64, on the CPU."""
    rows = [slot_ids(encode(editable.tokenizer, request)) for request in requests]
    padded = pad_rows(rows, [len(row) - 1 for row in rows], editable.pad_id, editable.device)
    with captured(editable.block(layer)) as seen:
        editable.model(input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.position_ids)
    return seen.output[:, padded.pivot].cpu().double().T


def _wanted_state(
    editable: EditableModel,
    requests: Sequence[EditRequest],
    delta: Tensor,
    optimised_on_base: bool,
    states: Mapping[int, LayerState],
) -> Tensor:
    """The hidden states [d, n] the targets ask for: those of the weights they were optimised on, plus delta."""
    base = {layer: state.base for layer, state in states.items()} if optimised_on_base else {}
    with editable.rewritten(base):
        return subject_states(editable, requests, max(states)) + delta
