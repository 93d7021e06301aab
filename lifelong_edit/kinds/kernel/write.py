"""Writing: what an entry does to the system, worked out to the last number and not yet committed.

New values are optimised, put into the system, and where a large ridge writes too little of a fact its ridge is eased: a
ridge high enough to spare what nobody edits costs some facts, and giving these alone a lower one brings them back
almost for free (docs/front.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lifelong_edit.algebra.system import Columns, Pair, shown
from lifelong_edit.errors import SolveError
from lifelong_edit.kinds.kernel.batch import BatchEdit, LayerState, edit_batch
from lifelong_edit.kinds.kernel.state import ByWeight, KernelState, standing
from lifelong_edit.kinds.kind import Change, Head, How
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
    on_base, settings = kernel.settings.targets == "base", kernel.settings.recipe
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
    limit = -math.log(kernel.settings.confidence or kernel.settings.recipe.confidence)
    asked = {id: history.facts[id].request for group in groups for id in group}
    pairs = [(request.question, request.target_new) for request in asked.values()]
    with kernel.showing(state) as editable:
        scores = score_continuations(editable.model, editable.texts, pairs)
    known = {id: score.argmax and score.nll <= limit for id, score in zip(asked, scores, strict=True)}
    return [all(known[id] for id in group) for group in groups]


def _held(kernel: Kernel, history: History, name: str, slots: Sequence[str]) -> dict[int, tuple[Tensor, Tensor]]:
    """The keys that slots have already, plain and whitened, by position."""
    chains = history.chains()
    read = kernel.library.reader(name)
    held = {i: read([chains[slot][-1]]) for i, slot in enumerate(slots) if slot in chains}
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
