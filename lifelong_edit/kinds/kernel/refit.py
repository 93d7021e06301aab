"""Refits of the kernel: the same facts held in another way. Ridges are lowered, or all batches are solved anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lifelong_edit.algebra.system import Columns, Memory
from lifelong_edit.defaults import EFFICACY, HALVINGS
from lifelong_edit.errors import RequestError
from lifelong_edit.kinds.kernel.state import KernelState, Read, standing
from lifelong_edit.kinds.kernel.write import ByLayer, KernelChange, eased, said
from lifelong_edit.kinds.kind import Change, Effect, Head, Weigh, improves
from lifelong_edit.methods import check_ridge
from lifelong_edit.store import Column, History

if TYPE_CHECKING:
    from lifelong_edit.kinds.kernel.kernel import Kernel

SHARES = (0.0, 1.0, 2.0, 4.0, 8.0)  # of the mean key mass, by which a repair tries to enlarge ridges


def relaxed(kernel: Kernel, head: Head, body: Mapping[str, Any], halvings: int) -> KernelChange | None:
    """The active facts that the model says no longer, with lower ridges; None where none of them responds.

    No ridge goes below that which its fact was written with, halved `halvings` times. `RequestError` in batch memory.
    """
    if kernel.settings.memory != Memory.joint:
        raise RequestError("Batch memory does not solve for earlier facts again. Use repair, which does.")
    if halvings < 1:
        raise RequestError(f"A ridge is halved once or more often, not {halvings} times.")
    history, layers = head.history, kernel.state_of(head).layers
    edits = [p.value for p in kernel.state_of(head).one.placed if not _protected(history, p.value)]
    if not edits:
        return None
    columns = {n: kernel.library.reader(layer.name)(edits) for n, layer in layers.items()}
    groups = [column.facts for column in edits]
    left = [halvings - spent for spent in _spent(kernel, head, edits, columns)]

    def change(now: ByLayer) -> KernelChange:
        lower = [i for i in range(len(edits)) if any(bool(now[n].ridge[i] < columns[n].ridge[i]) for n in now)]
        return _relaxing(kernel, head, body, [edits[i] for i in lower], {n: now[n].take(lower) for n in now})

    eased_columns, halved = eased(columns, left, lambda now: said(kernel, history, groups, change(now).state))
    return change(eased_columns) if any(halved) else None


def repaired(kernel: Kernel, head: Head, body: Mapping[str, Any], weigh: Weigh) -> tuple[Change, Effect]:
    """All batches that stand as one, solved together from their stored keys and values.

    With live targets later values make up for what earlier batches leaked onto them, so together they do too much.
    Hence ridges are tried that are larger by each of the `SHARES` of the mean key mass, and halved for the facts that
    miss. Of what improves efficacy and drift that with the best efficacy is taken, and of these the one with the least
    drift; where nothing does, the plain solution.

    `RequestError` in joint memory, or where fewer than two batches stand; `SolveError` naming facts that cannot be held
    together.
    """
    if kernel.settings.memory == Memory.joint:
        raise RequestError("Joint memory is one system already. Use relax, which lowers the ridge of facts that fade.")
    if len(kernel.state_of(head).one.batches) < 2:
        raise RequestError("Fewer than two batches stand, so there is nothing to solve together.")
    tried = [weigh(_repairing(kernel, head, body, share)) for share in SHARES]
    better = [one for one in tried if improves(one[1])]
    return max(better, key=lambda one: (one[1][EFFICACY][1], -one[1]["drift"][1])) if better else tried[0]


def at_ridge(kernel: Kernel, head: Head, ridge: float) -> KernelState:
    """The state had every value that stands been written with `ridge`, in mean key masses, and eased as the store does.

    Keys and targets are the recorded ones: with targets of the base, and one batch, a store of this ridge has the same.
    """
    check_ridge(ridge)
    history, placed = head.history, kernel.state_of(head).one.placed
    values, groups = [one.value for one in placed], [one.value.facts for one in placed]
    layers = {n: layer.name for n, layer in kernel.base.layers.items()}
    numbers, position = {name: n for n, name in layers.items()}, {value: i for i, value in enumerate(values)}
    columns = {}
    for n, name in layers.items():
        own = kernel.library.reader(name)(values)
        columns[n] = replace(own, ridge=torch.full_like(own.ridge, ridge * kernel.init["calibration"][str(n)]))

    def state(now: ByLayer) -> KernelState:
        def reader(name: str) -> Read:
            return lambda wanted: now[numbers[name]].take([position[value] for value in wanted])

        return kernel.base.becoming(standing(history, kernel.settings.memory), reader)

    left = [0 if _protected(history, value) else kernel.settings.halvings for value in values]
    lower, _ = eased(columns, left, lambda now: said(kernel, history, groups, state(now)))
    return state(lower)


def _relaxing(
    kernel: Kernel, head: Head, body: Mapping[str, Any], old: Sequence[Column], columns: ByLayer
) -> KernelChange:
    """The change in which `columns` stand for the values `old`."""
    groups = [sorted(column.facts) for column in old]
    about = {"facts": [id for group in groups for id in group], "columns": groups}
    named = {layer.name: columns[n] for n, layer in kernel.state_of(head).layers.items()} if old else {}
    return _changing(kernel, head, "relax", {**body, **about}, named)


def _repairing(kernel: Kernel, head: Head, body: Mapping[str, Any], share: float) -> KernelChange:
    """The change in which all that stands is one batch, with ridges larger by a share of the mean key mass."""
    history, layers, seq = head.history, kernel.state_of(head).layers, head.seq
    values = list(history.last_columns().values())
    groups = [sorted(value.facts) for value in values]

    def change(now: ByLayer) -> KernelChange:
        columns = {layer.name: now[n] for n, layer in layers.items() if now}
        about = {"columns": groups} if now else {}
        return _changing(kernel, head, "repair", {**body, "facts": [], **about}, columns, new=seq)

    if not share:
        return change({})
    columns = {n: _larger(kernel, head, n, values, share) for n in layers}
    lower, _ = eased(columns, [HALVINGS] * len(values), lambda now: said(kernel, history, groups, change(now).state))
    return change(lower)


def _larger(kernel: Kernel, head: Head, number: int, values: Sequence[Column], share: float) -> Columns:
    """The columns of these values in one layer, with larger ridges."""
    own = kernel.library.reader(kernel.state_of(head).layers[number].name)(values)
    return replace(own, ridge=own.ridge + share * kernel.init["calibration"][str(number)])


def _changing(
    kernel: Kernel,
    head: Head,
    kind: str,
    body: dict[str, Any],
    columns: Mapping[str, Columns],
    new: int | None = None,
) -> KernelChange:
    """The change of this body, with the columns it brings by weight."""
    before, limit = kernel.state_of(head), kernel.settings.amplification_limit
    after = head.history.then(head.seq, kind, body)
    batches, pending = standing(after, kernel.settings.memory), {head.seq: columns}
    state = before.becoming(
        batches, lambda name: kernel.library.reader(name, pending), new=new, amplification_limit=limit
    )
    deltas = before.delta_to(state, head.seq, math.inf)
    return KernelChange(kind, body, after, state=state, deltas=deltas, columns=dict(columns))


def _spent(kernel: Kernel, head: Head, edits: Sequence[Column], columns: ByLayer) -> list[int]:
    """How often the ridge of each value was halved since it was written; of a ridge of 0, more often than can be."""
    first: dict[frozenset[str], Column] = {}
    for column in head.history.standing:
        first.setdefault(column.facts, column)
    number, now = next(iter(columns.items()))
    then = kernel.library.reader(kernel.state_of(head).layers[number].name)([first[column.facts] for column in edits])
    pairs = zip(then.ridge.tolist(), now.ridge.tolist(), strict=True)
    return [round(math.log2(before / after)) if after else 1 << 30 for before, after in pairs]


def _protected(history: History, column: Column) -> bool:
    return all(history.facts[id].protected for id in column.facts)
