"""The numbers of a plan: columns that are not written yet, how near their keys are, room, time, bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lifelong_edit.algebra.system import Columns, Memory
from lifelong_edit.algebra.telemetry import collisions, largest_first
from lifelong_edit.facts import canonical_json
from lifelong_edit.kinds.kernel.state import EditedLayer, Placed, standing
from lifelong_edit.kinds.kernel.write import Strength, optimised
from lifelong_edit.kinds.kind import Cost, Forecast, Head, Near, Rehearsed, State
from lifelong_edit.store import History

if TYPE_CHECKING:
    from lifelong_edit.kinds.kernel.kernel import Kernel

SAMPLE = 4  # values that are optimised to see how long one takes
NUMBER = 8  # bytes of a float64

Planned = Mapping[int, Mapping[str, Columns]]
"""Columns without values, by the seq of the entry that would write them and the name of their weight."""


def forecast(kernel: Kernel, head: Head, rehearsed: Rehearsed, strength: Strength) -> Forecast:
    """The numbers of the rehearsed commits; keys are those of the model as it is."""
    planned = _planned_columns(kernel, head, rehearsed, strength.ridges)
    moving = [ids for _, ids in rehearsed.groups if not all(rehearsed.history.facts[id].protected for id in ids)]
    return Forecast(
        values=len(moving),
        near=_near(kernel, head, rehearsed, planned),
        capacity=_capacities(kernel, head, rehearsed, planned),
        cost=_cost(kernel, head, rehearsed, moving) if rehearsed.groups else None,
    )


def _target_state(kernel: Kernel, head: Head) -> State:
    """The state on which targets and keys are taken."""
    return kernel.base if kernel.settings.targets == "base" else kernel.state_of(head)


def _planned_columns(kernel: Kernel, head: Head, rehearsed: Rehearsed, ridges: Mapping[str, float]) -> Planned:
    """The columns of the new values, with keys of the model as it is and residuals of zero."""
    found: dict[int, dict[str, Columns]] = {}
    if not rehearsed.groups:
        return found
    seqs = [seq for seq, _ in rehearsed.groups]
    names = tuple(ids[-1] for _, ids in rehearsed.groups)
    for number, layer in kernel.state_of(head).layers.items():
        with kernel.showing(_target_state(kernel, head)) as editable:
            own = kernel.keys(editable, rehearsed.leaders, number)
        whitened = kernel.metrics[number].whiten(own, names)
        nothing = layer.base.new_zeros(len(layer.base), len(names), dtype=torch.float64)
        ridge = torch.full((len(names),), ridges[str(number)], dtype=torch.float64, device=own.device)
        every = Columns(own, whitened, nothing, ridge, names)
        for seq in dict.fromkeys(seqs):
            found.setdefault(seq, {})[layer.name] = every.take([one == seq for one in seqs])
    return found


def _near(kernel: Kernel, head: Head, rehearsed: Rehearsed, planned: Planned) -> tuple[Near, ...]:
    """Pairs of nearly parallel keys, at least one of them new; the nearest first."""
    found, last = [], head.last.seq
    placed = sorted(_placed(kernel, rehearsed), key=lambda p: p.value)
    stored = sum(p.value.seq <= last for p in placed)
    for layer in kernel.state_of(head).layers.values():
        columns = kernel.library.reader(layer.name, planned)([p.value for p in placed]) if placed else layer.whole
        for pair in collisions(columns, [p.value.slot for p in placed], start=stored):
            one, other = (min(placed[i].value.facts) for i in (pair.earlier, pair.later))
            apart = _apart(columns.take([pair.earlier, pair.later]))
            found.append(Near(layer.name, one, other, pair.cosine, apart))
    return tuple(largest_first({pair: abs(pair.cosine) for pair in found}))


def _capacities(kernel: Kernel, head: Head, rehearsed: Rehearsed, planned: Planned) -> dict[str, tuple[float, float]]:
    """To each weight the share of its directions that facts take up, now and after; NaN for a singular system."""
    histories = (head.history, rehearsed.history)
    layers = kernel.state_of(head).layers.values()
    pairs = {layer.name: [_capacity(kernel, layer, history, planned) for history in histories] for layer in layers}
    return {name: (now, after) for name, (now, after) in pairs.items()}


def _cost(kernel: Kernel, head: Head, rehearsed: Rehearsed, moving: Sequence[Sequence[str]]) -> Cost:
    """Optimises a few of the new values, which are thrown away, and counts what the rest would be."""
    groups = moving[:SAMPLE]
    facts = rehearsed.history.facts
    requests = [[facts[id].request for id in ids] for ids in groups]
    layers = kernel.state_of(head).layers
    began = time.perf_counter()
    if requests:
        with kernel.showing(_target_state(kernel, head)) as editable:
            optimised(editable, requests, kernel.metrics, kernel.contexts, kernel.recipe, kernel.shapes)
    each = (time.perf_counter() - began) / max(len(groups), 1)
    new = [fact for id, fact in facts.items() if id not in head.history.facts]
    texts = sum(2 * len(canonical_json(fact.request.to_dict()).encode()) for fact in new)  # the entry, and its row
    columns, after = len(rehearsed.groups), len(_placed(kernel, rehearsed))
    disk = texts + columns * sum(_column_bytes(layer) for layer in layers.values())
    tensors = {id(t): t for t in (*kernel.live.model.parameters(), *kernel.live.model.buffers())}
    held = sum(t.numel() * t.element_size() for t in tensors.values())
    own = sum(_layer_bytes(layer) + after * _column_bytes(layer) for layer in layers.values())
    return Cost(each * len(moving), len(groups), disk, held + own)


def _placed(kernel: Kernel, rehearsed: Rehearsed) -> list[Placed]:
    return [p for batch in standing(rehearsed.history, kernel.settings.memory).values() for p in batch]


def _capacity(kernel: Kernel, layer: EditedLayer, history: History, planned: Planned) -> float:
    """The sum of the leverages diag(T^-1 G) over d_in, as `telemetry` has it; nothing of it depends on the values."""
    batches = standing(history, kernel.settings.memory)
    if not batches:
        return 0.0
    read = kernel.library.reader(layer.name, planned)
    columns = read([p.value for batch in batches.values() for p in batch])
    batch_of = torch.tensor([n for n, batch in enumerate(batches.values()) for _ in batch], device=layer.base.device)
    gram = columns.whitened.T @ columns.keys  # G [n, n]
    seen = gram if kernel.settings.memory == Memory.joint else gram * (batch_of[:, None] <= batch_of)
    solution, failed = torch.linalg.solve_ex(seen + columns.ridge.diag(), gram)
    return math.nan if failed else float(solution.trace().item() / len(columns.keys))


def _apart(pair: Columns) -> float:
    """e / (e + ridge) of the smaller eigenvalue e of the two keys' Gram; 1 without a ridge."""
    (a, b), (_, c) = (pair.keys.T @ pair.whitened).tolist()
    smaller = max((a + c) / 2 - math.hypot((a - c) / 2, b), 0.0)
    ridge = pair.ridge.mean().item()
    return smaller / (smaller + ridge) if ridge else 1.0


def _column_bytes(layer: EditedLayer) -> int:
    """Key, whitened key, residual and ridge, and a column of either side of the delta."""
    d_out, d_in = layer.base.shape
    return NUMBER * (3 * d_in + 2 * d_out + 1)


def _layer_bytes(layer: EditedLayer) -> int:
    """The base weight, the folded one, and the metric with its factor."""
    d_out, d_in = layer.base.shape
    return layer.base.numel() * layer.base.element_size() + NUMBER * (d_out * d_in + 2 * d_in * d_in)
