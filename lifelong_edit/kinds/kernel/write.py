"""Writing: what an entry does to the system, worked out to the last number and not yet committed.

New values are optimised, put into the system, and where a large ridge writes too little of a fact its ridge is eased: a
ridge high enough to spare what nobody edits costs some facts, and giving these alone a lower one brings them back
almost for free (docs/front.md).

`edit_batch` goes from the requests of a batch to the columns of every edited layer. Either every layer has targets of
its own, or targets are optimised at the highest one: then a single layer takes the whole residual, and several share
it (MEMIT, arXiv 2210.07229).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.algebra.system import Columns, Pair, base_residuals, shown
from lifelong_edit.editing.keys import Forms, check_finite, collect_keys
from lifelong_edit.editing.layered import LayeredSettings, LayeredTargets, optimise_layers
from lifelong_edit.editing.targets import Targets, TargetSettings, optimise_targets
from lifelong_edit.errors import SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel.state import ByWeight, KernelState, standing
from lifelong_edit.kinds.kind import Change, Head, How
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import encode, pad_rows, slot_ids
from lifelong_edit.store import History
from lifelong_edit.tracking.scores import score_continuations

if TYPE_CHECKING:
    from lifelong_edit.kinds.kernel.kernel import Kernel


@dataclass(frozen=True)
class Strength(How):
    """How strongly a batch is written: the ridge of new values by edited layer, and how often it may be halved."""

    ridges: Mapping[str, float]
    halvings: int


@dataclass(frozen=True, kw_only=True)
class KernelChange(Change):
    """A change of the kernel kind: `deltas`, what it does to each weight, and `columns`, the new values, by weight."""

    state: KernelState
    deltas: Mapping[str, Pair]
    columns: ByWeight


def plan(kernel: Kernel, head: Head, kind: str, body: dict[str, Any], strength: Strength | None = None) -> KernelChange:
    """Work out what the entry of this kind and body does. Neither the store nor the live model is changed.

    Slots whose active facts no column was optimised for get a new value, with the ridges of `strength` or that of the
    value it takes the place of; a slot of protected facts alone keeps the value that the base has. The ridge of facts
    that the model does not say is halved as often as `strength` allows. Raises what the target optimisation and the
    algebra raise, and `SolveError` for a change that is too large.
    """
    limit = math.inf if kind == "revert" else kernel.settings.amplification_limit  # one can always go back
    before = kernel.state_of(head)
    after = head.history.then(head.seq, kind, body)
    slots = [slot for slot, chain in after.chains().items() if not chain]
    facts = after.slots()
    groups = [list(facts[slot]) for slot in slots]
    columns: ByWeight = {}
    if slots:
        body = {**body, "columns": groups}
        after = after.holding(head.seq, groups)
        with _way_back(kind):
            edit, state = _optimised(kernel, head, after, slots, groups, strength, limit)
        columns = {layer.name: edit.columns[n] for n, layer in state.layers.items()}
        body = {**body, "loss": list(edit.loss), "steps": list(edit.steps)}
    else:
        with _way_back(kind):
            state = kernel.fold(after, before)
    if kind != "revert":
        names = [fact if isinstance(fact, str) else fact["id"] for fact in body["facts"]]
        _check_size(before, state, kernel.settings.norm_limit, names)
    deltas = before.delta_to(state, head.seq, limit)
    written = {id for group in groups for id in group if id not in head.history.facts}
    rewritten = tuple(id for group in groups if not written & set(group) for id in group)
    return KernelChange(kind, body, after, state=state, deltas=deltas, columns=columns, rewritten=rewritten)


def _check_size(before: KernelState, after: KernelState, limit: float | None, facts: Sequence[str]) -> None:
    """Raise `SolveError` where a weight moves away from its base by more than `limit` sqrt(facts), relative to it.

    Changes of unrelated facts are about orthogonal, so the norm of their sum grows like the root of their number.
    """
    allowed = math.inf if limit is None else limit * math.sqrt(max(1, len(facts)))
    for number, layer in after.layers.items():
        size = before.layers[number].away(layer.weight)
        if not size <= allowed and layer.away(layer.base) > before.layers[number].away(layer.base):
            raise SolveError(
                f"{shown(facts)} would move {layer.name} by {size:.3g} times its norm (limit {allowed:.3g}: {limit:g} "
                "times the root of the number of facts), and ruin what else the model knows. Give a larger ridge, or "
                "leave out facts whose subjects are alike. A store made with a larger norm_limit allows it."
            )


@contextmanager
def _way_back(kind: str) -> Iterator[None]:
    """Let the error of a revert say how to go back nevertheless."""
    try:
        yield
    except SolveError as error:
        if kind != "revert":
            raise
        raise SolveError(
            f"The facts that would be left cannot be held together: {error} A revert gives no fact another ridge: "
            "revert the facts named here with it, or all facts (to=0), for which nothing is solved."
        ) from error


def _optimised(
    kernel: Kernel,
    head: Head,
    after: History,
    slots: Sequence[str],
    groups: Sequence[Sequence[str]],
    strength: Strength | None,
    limit: float,
) -> tuple[BatchEdit, KernelState]:
    """New values for these slots, held against an amplification limit, and the state in which they stand."""
    before, batches = kernel.state_of(head), standing(after, kernel.settings.memory)
    layers = dict(before.layers)

    # Layer by layer: the weight a layer has with its new columns, on which the next one is worked out.
    def place(number: int, columns: Columns) -> Tensor:
        layer = before.layers[number]
        read = kernel.library.reader(layer.name, {head.seq: {layer.name: columns}})
        layers[number] = layer.becoming(batches, read, new=head.seq, amplification_limit=limit)
        return layers[number].weight

    # What each layer starts from. A slot that has a key keeps it, so that all versions of its value share one column.
    states = {
        n: LayerState(
            layer.base,
            kernel.metrics[n],
            layer.earlier,
            _ridge(kernel, head.history, layer.name, slots, None if strength is None else strength.ridges[str(n)]),
            _held(kernel, head.history, layer.name, slots),
            kernel.shapes.get(n),
        )
        for n, layer in before.layers.items()
    }
    requests = [[after.facts[id].request for id in group] for group in groups]
    names = [group[-1] for group in groups]
    fixed = [i for i, group in enumerate(groups) if all(after.facts[id].protected for id in group)]
    on_base, settings = kernel.settings.targets == "base", kernel.recipe
    with kernel.showing(before) as editable:
        edit = edit_batch(editable, requests, names, states, kernel.contexts, settings, on_base, place, fixed)

    # The whole system is solved anew for every trial of lower ridges: facts lean on each other.
    def says(columns: ByLayer) -> list[bool]:
        for number, own in columns.items():
            place(number, own)
        return said(kernel, after, groups, KernelState(dict(layers)))

    if strength is not None and strength.halvings:
        left = [0 if i in fixed else strength.halvings for i in range(len(groups))]
        columns, _ = eased(edit.columns, left, says)
        edit = replace(edit, columns=columns)
        for number, own in columns.items():
            place(number, own)
    return edit, KernelState(layers)


def said(kernel: Kernel, history: History, groups: Sequence[Collection[str]], state: KernelState) -> list[bool]:
    """For each group of facts whether a model in this state says all of them, with the confidence of the settings."""
    limit = -math.log(kernel.settings.confidence or kernel.recipe.confidence)
    asked = {id: history.facts[id].request for group in groups for id in group}
    pairs = [(request.question, request.answer) for request in asked.values()]
    with kernel.showing(state) as editable:
        scores = score_continuations(editable.model, editable.texts, pairs)
    known = {id: score.argmax and score.nll <= limit for id, score in zip(asked, scores, strict=True)}
    return [all(known[id] for id in group) for group in groups]


def _held(kernel: Kernel, history: History, name: str, slots: Sequence[str]) -> dict[int, tuple[Tensor, Tensor]]:
    """The keys that slots have already, plain and whitened, by position."""
    last = history.last_columns()
    read = kernel.library.reader(name)
    held = {i: read([last[slot]]) for i, slot in enumerate(slots) if slot in last}
    return {i: (columns.keys[:, 0], columns.whitened[:, 0]) for i, columns in held.items()}


def _ridge(kernel: Kernel, history: History, name: str, slots: Sequence[str], given: float | None) -> Tensor:
    """The ridge [n] of new values: the one given, or that of the value last written for the slot."""
    if given is not None:
        return torch.full((len(slots),), given, dtype=torch.float64, device=kernel.live.device)
    last = {column.slot: column for column in history.standing}
    read = kernel.library.reader(name)
    return torch.cat([read([last[slot]]).ridge for slot in slots])


ByLayer = Mapping[int, Columns]


def eased(
    columns: ByLayer, left: Sequence[int], said: Callable[[ByLayer], Sequence[bool]]
) -> tuple[dict[int, Columns], tuple[int, ...]]:
    """Halve the ridge of the facts that are not said, in all layers alike, until they are or their halvings are spent.

    Each layer holds the same n facts as columns; fact i may be halved `left[i]` times. `said` tells for given columns
    which of them the model says. A fact that does not come back keeps the ridge it had: lowering it bought nothing.
    Returns the columns, and how often each fact was halved.
    """
    limits = torch.tensor(left)  # [n]
    halved, now = torch.zeros_like(limits), dict(columns)
    missing = ~torch.tensor(list(said(now)), dtype=torch.bool)
    while (due := missing & (halved < limits)).any():
        halved = halved + due.long()
        now = _with(columns, halved)
        missing = ~torch.tensor(list(said(now)), dtype=torch.bool)
    halved = halved.where(~missing, 0)
    return _with(columns, halved), tuple(halved.tolist())


def _with(columns: ByLayer, halved: Tensor) -> dict[int, Columns]:
    return {n: replace(own, ridge=own.ridge * 0.5 ** halved.to(own.ridge)) for n, own in columns.items()}


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
