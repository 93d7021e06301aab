"""From the requests of a batch to the columns of every edited layer.

Either every layer has targets of its own, or targets are optimised at the highest layer: then a single layer takes the
whole residual, and several share it (MEMIT, arXiv 2210.07229).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.algebra.system import Columns, Pair, base_residuals
from lifelong_edit.editing.forms import Forms
from lifelong_edit.editing.keys import check_finite, collect_keys
from lifelong_edit.editing.layered import LayeredSettings, LayeredTargets, optimise_layers
from lifelong_edit.editing.targets import Targets, TargetSettings, optimise_targets
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import encode, pad_rows, slot_ids


@dataclass(frozen=True)
class LayerState:
    """One edited layer before a batch of n values: its metric, what was written so far, and the batch's ridge [n].

    `base` is W_0 [d_out, d_in]. `held` gives, to the position of each value whose slot has a key already, that key
    [d_in] and its whitened form [d_in]: a slot's key is decided once. `shape` [d_out, d_out] is what targets are
    measured by, where that is not their plain size.
    """

    base: Tensor
    metric: Metric
    earlier: Pair
    ridge: Tensor
    held: Mapping[int, tuple[Tensor, Tensor]]
    shape: Tensor | None = None


Place = Callable[[int, Columns], Tensor]
"""Takes a layer and the batch's columns there; gives the weight [d_out, d_in] that the layer then has."""


@dataclass(frozen=True)
class BatchEdit:
    """The columns of a batch at every edited layer, one a slot; each value's last loss and how many steps it took."""

    columns: dict[int, Columns]
    loss: tuple[float, ...]
    steps: tuple[int, ...]


def edit_batch(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    names: Sequence[str],
    states: Mapping[int, LayerState],
    contexts: Sequence[str],
    settings: TargetSettings | LayeredSettings,
    on_base: bool,
    place: Place,
    fixed: Sequence[int] = (),
) -> BatchEdit:
    """Optimise targets on the base weights or on those the model has, and make columns of them.

    A group holds all requests of one slot; `names` are what messages call the groups. Those at the positions `fixed`
    keep the value they have on the base weights. `place` says what weight a layer has once its columns are in. The
    model is left as it was; errors are those of the optimisation, of whitening and of `place`.
    """
    moving = [position for position in range(len(groups)) if position not in fixed]
    leaders, asked = [group[0] for group in groups], [groups[i] for i in moving]
    base, forms = {layer: state.base for layer, state in states.items()} if on_base else {}, settings.forms(contexts)
    metrics = {layer: state.metric for layer, state in states.items()}
    shapes = {layer: state.shape for layer, state in states.items() if state.shape is not None}
    with editable.rewritten(base):
        targets = optimised(editable, asked, metrics, contexts, settings, shapes)
    if isinstance(targets, LayeredTargets):
        keys = {}
        with editable.rewritten(base):
            for layer in states if fixed else ():
                keys[layer] = collect_keys(editable, leaders, layer, forms, settings.average(metrics[layer]))
                keys[layer][:, moving] = targets.keys[layer]
        deltas = {layer: _with_zeros(delta, moving, len(groups)) for layer, delta in targets.deltas.items()}
        columns = written_apart(leaders, names, deltas, keys or targets.keys, on_base, states, place, fixed)
    else:
        delta = _with_zeros(targets.delta, moving, len(groups))
        columns = spread(editable, leaders, names, delta, on_base, states, forms, place, fixed)
    loss, steps = [0.0] * len(groups), [0] * len(groups)
    for position, its_loss, its_steps in zip(moving, targets.loss, targets.steps, strict=True):
        loss[position], steps[position] = its_loss, its_steps
    return BatchEdit(columns, tuple(loss), tuple(steps))


def optimised(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    metrics: Mapping[int, Metric],
    contexts: Sequence[str],
    settings: TargetSettings | LayeredSettings,
    shapes: Mapping[int, Tensor],
) -> Targets | LayeredTargets:
    """Targets of groups of facts at the layers that have these metrics, or at the highest of them."""
    if isinstance(settings, LayeredSettings):
        return optimise_layers(editable, groups, metrics, contexts, settings, shapes)
    return optimise_targets(editable, groups, max(metrics), contexts, settings)


def _with_zeros(columns: Tensor, at: Sequence[int], count: int) -> Tensor:
    """The `columns` [d, m] at these positions of `count`, zeros at the others."""
    whole = columns.new_zeros(len(columns), count)
    whole[:, list(at)] = columns
    return whole


def written_apart(
    requests: Sequence[EditRequest],
    names: Sequence[str],
    deltas: Mapping[int, Tensor],
    keys: Mapping[int, Tensor],
    optimised_on_base: bool,
    states: Mapping[int, LayerState],
    place: Place,
    fixed: Sequence[int] = (),
) -> dict[int, Columns]:
    """The columns of layers that each have a target delta [d_out, n] and keys [d_in, n] of their own.

    Nothing is passed from layer to layer, because the keys are those of a run with all deltas in.
    """
    written: dict[int, Columns] = {}
    for layer, state in sorted(states.items()):
        own, whitened = _decided(keys[layer].clone(), names, state)
        frozen = deltas[layer] if optimised_on_base else base_residuals(deltas[layer], own, [state.earlier])
        frozen[:, list(fixed)] = 0.0
        check_finite(frozen, requests, "residual")
        written[layer] = Columns(own, whitened, frozen, state.ridge, tuple(names))
        place(layer, written[layer])
    return written


def spread(
    editable: EditableModel,
    requests: Sequence[EditRequest],
    names: Sequence[str],
    delta: Tensor,
    optimised_on_base: bool,
    states: Mapping[int, LayerState],
    forms: Forms,
    place: Place,
    fixed: Sequence[int] = (),
) -> dict[int, Columns]:
    """The columns of every layer for target deltas `delta` [d_out, n] at the highest; the model is left as it was.

    `requests` holds one request a value. With one layer the residual is delta itself, on the weights it was optimised
    on. With several, every layer takes an equal share of what is still missing of the wanted hidden state, on the
    model whose lower layers already hold their share (MEMIT, arXiv 2210.07229). The values at the positions `fixed` are
    those of the base weights: their residual there is zero.
    """
    layers = sorted(states)
    written: dict[int, Columns] = {}
    with ExitStack() as stack:
        wanted = _wanted_state(editable, requests, delta, optimised_on_base, states) if len(layers) > 1 else delta
        for number, layer in enumerate(layers):
            state = states[layer]
            keys, whitened = _decided(collect_keys(editable, requests, layer, forms), names, state)
            if len(layers) > 1:
                missing = (wanted - subject_states(editable, requests, layers[-1])) / (len(layers) - number)
                frozen = base_residuals(missing, keys, [state.earlier])
            else:
                frozen = delta.clone() if optimised_on_base else base_residuals(delta, keys, [state.earlier])
            frozen[:, list(fixed)] = 0.0
            check_finite(frozen, requests, "residual")
            written[layer] = Columns(keys, whitened, frozen, state.ridge, tuple(names))
            weight = place(layer, written[layer])
            if layer != layers[-1]:
                stack.enter_context(editable.rewritten({layer: weight}))
    return written


def _decided(keys: Tensor, names: Sequence[str], state: LayerState) -> tuple[Tensor, Tensor]:
    """Keys and whitened keys, both [d_in, n]: those the slots hold already, for other slots the new `keys`."""
    whitened = state.metric.whiten(keys, names)
    for position, (key, white) in state.held.items():
        keys[:, position], whitened[:, position] = key, white
    return keys, whitened


@torch.no_grad()
def subject_states(editable: EditableModel, requests: Sequence[EditRequest], layer: int) -> Tensor:
    """Hidden states [d, n] after block `layer` at the subject's last token of the bare prompts, float64."""
    rows = [slot_ids(encode(editable.texts, request)) for request in requests]
    padded = pad_rows(rows, [len(row) - 1 for row in rows], editable.pad_id, editable.device)
    with captured(editable.block(layer)) as seen:
        editable.model(input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.position_ids)
    return seen.output[:, padded.pivot].double().T


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
