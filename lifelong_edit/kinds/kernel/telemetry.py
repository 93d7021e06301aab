"""What stored keys and values say of every fact, for the ledger and for whoever asks: no forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lifelong_edit.algebra.system import Columns, Pair
from lifelong_edit.algebra.telemetry import BaseSize, Telemetry, largest_first, risks, telemetry
from lifelong_edit.kinds.kernel.state import EditedLayer, KernelState
from lifelong_edit.kinds.kernel.write import KernelChange
from lifelong_edit.store import History
from lifelong_edit.tracking.scores import finite

SHOWN = 10  # older edits, those a change interferes with most
KEPT = 50  # flagged facts, and collisions, that an entry keeps of each weight


def read_out(state: KernelState, sizes: Mapping[int, BaseSize]) -> dict[str, Telemetry]:
    """The telemetry of the edited layers, by the name of their weight; `sizes` are those of the base, by layer."""
    return {layer.name: _of(layer, sizes[n]) for n, layer in state.layers.items()}


def residuals(history: History, state: KernelState, read: Mapping[str, Telemetry]) -> dict[str, float]:
    """To every active fact the largest ||v - W k|| / ||v - W_0 k|| over the edited layers, for the keys as recorded.

    A protected fact, for which nothing was to change, has none.
    """
    worst: dict[str, float] = {}
    for layer in state.layers.values():
        for id, residual in _by_fact(history, layer, read[layer.name].residual).items():
            worst[id] = max(worst.get(id, 0.0), residual)
    return {id: worst[id] for id in history.active if id in worst}


def at_risk(history: History, state: KernelState, read: Mapping[str, Telemetry]) -> dict[str, float]:
    """To every active fact the largest risk over the edited layers of being forgotten (see `algebra.risk`)."""
    worst: dict[str, float] = {}
    for layer in state.layers.values():
        for id, risk in _by_fact(history, layer, risks(read[layer.name])).items():
            worst[id] = max(worst.get(id, -math.inf), risk)
    return {id: worst[id] for id in history.active if id in worst}


def telemetry_body(change: KernelChange, read: Mapping[str, Telemetry]) -> dict[str, Any]:
    """What the entry of a change keeps, by weight: sizes, conditioning, whom it disturbs, and who is at risk."""
    return {
        layer.name: _kept(change, layer, read[layer.name], change.deltas[layer.name])
        for layer in change.state.layers.values()
    }


def _of(layer: EditedLayer, size: BaseSize) -> Telemetry:
    batches, pairs = list(layer.columns.values()) or [layer.whole], list(layer.pairs.values()) or [layer.earlier]
    slots = [placed.value.slot for placed in layer.placed]
    return telemetry(batches, pairs, layer.memory, slots, size)


def _kept(change: KernelChange, layer: EditedLayer, read: Telemetry, delta: Pair) -> dict[str, Any]:
    own = _by_fact(change.history, layer, read.residual)
    names = [min(placed.value.facts) for placed in layer.placed]
    risk = _by_fact(change.history, layer, risks(read))
    flagged = largest_first({id: value for id, value in risk.items() if value > 0})
    figures = {
        "capacity": read.capacity,
        "preservation": read.preservation,
        "relative_norm": read.relative_norm,
        "norm": read.spectrum.norm,
        "stable_rank": read.spectrum.stable_rank,
        "entropy": read.spectrum.entropy,
        "condition": read.condition,
        "newest_condition": read.newest_condition,
    }
    return {
        **{name: finite(value) for name, value in figures.items()},
        "residual": _quantiles(list(own.values())),
        "interference": _interference(layer, delta, change.body),
        "flagged": {id: risk[id] for id in flagged[:KEPT]},
        "collisions": [[names[c.earlier], names[c.later], c.cosine] for c in read.collisions[:KEPT]],
    }


def _by_fact(history: History, layer: EditedLayer, residual: Tensor) -> dict[str, float]:
    """The residual [n] of the column that was optimised for a fact last, to every active fact whose value moved."""
    place = {placed.value: i for i, placed in enumerate(layer.placed)}
    residuals = residual.tolist()
    last = {id: residuals[place[value]] for value in history.last_columns().values() for id in value.facts}
    return {id: value for id, value in last.items() if math.isfinite(value)}


def _interference(layer: EditedLayer, delta: Pair, body: Mapping[str, Any]) -> list[list[float]]:
    """The older edits that `delta` disturbs most: seq, and the mean ||delta k|| / ||r_0|| over their columns."""
    written = {fact["id"] for fact in body["facts"] if not isinstance(fact, str)}
    moved: dict[int, list[float]] = {}
    columns = layer.whole
    for placed, share in zip(layer.placed, _moved(columns, delta).tolist(), strict=True):
        if math.isfinite(share) and not placed.value.facts & written:
            moved.setdefault(placed.place.seq, []).append(share)
    means = {seq: sum(own) / len(own) for seq, own in moved.items()}
    return [[seq, means[seq]] for seq in largest_first(means)[:SHOWN]]


def _moved(columns: Columns, delta: Pair) -> Tensor:
    """||delta k|| / ||r_0|| [n]."""
    written = delta.left @ (delta.right.T @ columns.keys)  # [d_out, n]
    return (written.square().sum(0) / columns.base_residuals.square().sum(0)).sqrt()


def _quantiles(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {
        name: ordered[int(share * (len(ordered) - 1))] for name, share in (("median", 0.5), ("p90", 0.9), ("max", 1))
    }


def figures(weight: str, read: Telemetry) -> list[tuple[str, float, float | None]]:
    """What an entry with drift keeps of one weight: name, value, and that of the base where it has one."""
    return [
        (f"norm/{weight}", read.relative_norm, 0.0),
        (f"preservation/{weight}", read.preservation, 0.0),
        (f"capacity/{weight}", read.capacity, 0.0),
        (f"stable-rank/{weight}", read.spectrum.stable_rank, None),
        (f"entropy/{weight}", read.spectrum.entropy, None),
    ]


def shifts(history: History, state: KernelState, deltas: Mapping[str, Pair], facts: Sequence[str]) -> dict[str, float]:
    """To each of these active facts the largest ||D k|| / ||v - W_0 k|| over the edited layers, with the deltas D."""
    standing = {id: value for value in history.last_columns().values() for id in value.facts}
    found = dict.fromkeys(facts, 0.0)
    for layer in state.layers.values():
        values = {placed.value: i for i, placed in enumerate(layer.placed)}
        held, pair = layer.whole.take([values[standing[id]] for id in facts]), deltas[layer.name]
        moved = (pair.left @ (pair.right.T @ held.keys)).norm(dim=0)  # ||D k||  [n]
        sizes = moved / held.base_residuals.norm(dim=0).clamp_min(1e-300)
        found = {id: max(known, size) for (id, known), size in zip(found.items(), sizes.tolist(), strict=True)}
    return found
