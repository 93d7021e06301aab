"""The numbers of a preview: columns that are not written yet, how near their keys are, room, time, bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from lifelong_edit.algebra.columns import Columns
from lifelong_edit.algebra.objective import Memory
from lifelong_edit.algebra.telemetry import collisions
from lifelong_edit.editing.keys import collect_keys
from lifelong_edit.editing.targets import optimise_targets
from lifelong_edit.engine.change.plan import Ridges
from lifelong_edit.engine.change.validate import Intake
from lifelong_edit.engine.state.layers import EditedLayer, Placed, standing
from lifelong_edit.engine.state.session import Session
from lifelong_edit.facts import EditRequest, canonical_json
from lifelong_edit.store import History

SAMPLE = 4  # values that are optimised to see how long one takes
NUMBER = 8  # bytes of a float64

Planned = Mapping[int, Mapping[str, Columns]]
"""Columns without values, by the seq of the entry that would write them and the name of their weight."""


@dataclass(frozen=True)
class Rehearsed:
    """A history with entries that nobody wrote: to each new value its seq and the ids it would be optimised for."""

    history: History
    seq: int
    groups: tuple[tuple[int, tuple[str, ...]], ...] = field(default=())

    def then(self, intake: Intake) -> Rehearsed:
        """With one more batch; the same, where it brings nothing new."""
        if not intake.requests:
            return self
        body, seq = intake.body(), self.seq + 1
        after = self.history.then(seq, "edit", body)
        slots = after.slots()
        groups = [list(slots[slot]) for slot, chain in after.chains().items() if not chain]
        history = self.history.then(seq, "edit", {**body, "columns": groups})
        return Rehearsed(history, seq, (*self.groups, *((seq, tuple(group)) for group in groups)))

    @property
    def leaders(self) -> list[EditRequest]:
        """A request of every new value's slot: all of a slot have one key."""
        return [self.history.facts[ids[0]].request for _, ids in self.groups]


@dataclass(frozen=True, slots=True)
class Near:
    """Two facts of different slots whose keys at `weight` are nearly parallel, by their whitened cosine.

    With keys that near, `apart` is the share of what is to tell the two values apart that the ridge lets through; with
    a ridge of 0 all of it, by a change that is larger by about 1 / (1 - |cosine|).
    """

    weight: str
    earlier: str
    later: str
    cosine: float
    apart: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What the commits would take: `seconds`, from `timed` values that were optimised to see how long one takes.

    `disk` is what they add to the store; `memory` what model and store hold afterwards, without activations. Bytes.
    """

    seconds: float
    timed: int
    disk: int
    memory: int


@contextmanager
def target_weights(session: Session) -> Iterator[None]:
    """The model with the weights that targets and keys are taken on."""
    on_base = session.settings.targets == "base"
    with session.editable.rewritten({n: layer.base for n, layer in session.head.layers.items()} if on_base else {}):
        yield


def planned_columns(session: Session, rehearsed: Rehearsed, ridges: Ridges) -> Planned:
    """The columns of the new values, with keys of the model as it is and residuals of zero."""
    found: dict[int, dict[str, Columns]] = {}
    if not rehearsed.groups:
        return found
    seqs = [seq for seq, _ in rehearsed.groups]
    names = tuple(ids[-1] for _, ids in rehearsed.groups)
    for number, layer in session.head.layers.items():
        with target_weights(session):
            own = collect_keys(session.editable, rehearsed.leaders, number, session.contexts)
        whitened = session.metrics[number].whiten(own, names)
        nothing = torch.zeros(len(layer.base), len(names), dtype=torch.float64)
        ridge = torch.full((len(names),), ridges[str(number)], dtype=torch.float64)
        every = Columns(own, whitened, nothing, ridge, names)
        for seq in dict.fromkeys(seqs):
            found.setdefault(seq, {})[layer.name] = every.take([one == seq for one in seqs])
    return found


def near(session: Session, rehearsed: Rehearsed, planned: Planned) -> tuple[Near, ...]:
    """Pairs of nearly parallel keys, at least one of them new; the nearest first."""
    found, last = [], session.head.last.seq
    placed = sorted(_placed(session, rehearsed), key=lambda p: p.value)
    stored = sum(p.value.seq <= last for p in placed)
    for layer in session.head.layers.values():
        columns = session.library.reader(layer.name, planned)([p.value for p in placed]) if placed else layer.whole
        for pair in collisions(columns, [p.value.slot for p in placed], start=stored):
            one, other = (min(placed[i].value.facts) for i in (pair.earlier, pair.later))
            apart = _apart(columns.take([pair.earlier, pair.later]))
            found.append(Near(layer.name, one, other, pair.cosine, apart))
    return tuple(sorted(found, key=lambda pair: -abs(pair.cosine)))


def capacity(session: Session, rehearsed: Rehearsed, planned: Planned) -> dict[str, tuple[float, float]]:
    """To each weight the share of its directions that facts take up, now and after; NaN for a singular system."""
    histories = (session.head.history, rehearsed.history)
    layers = session.head.layers.values()
    pairs = {layer.name: [_capacity(session, layer, history, planned) for history in histories] for layer in layers}
    return {name: (now, after) for name, (now, after) in pairs.items()}


def cost(session: Session, rehearsed: Rehearsed) -> Cost:
    """Optimises a few of the new values, which are thrown away, and counts what the rest would be."""
    groups = [ids for _, ids in rehearsed.groups[:SAMPLE]]
    facts = rehearsed.history.facts
    requests = [[facts[id].request for id in ids] for ids in groups]
    layers = session.head.layers
    began = time.perf_counter()
    with target_weights(session):
        optimise_targets(session.editable, requests, max(layers), session.contexts, session.settings.target)
    each = (time.perf_counter() - began) / len(groups)
    new = [fact for id, fact in facts.items() if id not in session.head.history.facts]
    texts = sum(2 * len(canonical_json(fact.request.to_dict()).encode()) for fact in new)  # the entry, and its row
    columns, after = len(rehearsed.groups), len(_placed(session, rehearsed))
    disk = texts + columns * sum(_column_bytes(layer) for layer in layers.values())
    tensors = {id(t): t for t in (*session.editable.model.parameters(), *session.editable.model.buffers())}
    held = sum(t.numel() * t.element_size() for t in tensors.values())
    own = sum(_layer_bytes(layer) + after * _column_bytes(layer) for layer in layers.values())
    return Cost(each * columns, len(groups), disk, held + own)


def _placed(session: Session, rehearsed: Rehearsed) -> list[Placed]:
    return [p for batch in standing(rehearsed.history, session.settings.memory).values() for p in batch]


def _capacity(session: Session, layer: EditedLayer, history: History, planned: Planned) -> float:
    """The sum of the leverages diag(T^-1 G) over d_in, as `telemetry` has it; nothing of it depends on the values."""
    batches = standing(history, session.settings.memory)
    if not batches:
        return 0.0
    read = session.library.reader(layer.name, planned)
    columns = read([p.value for batch in batches.values() for p in batch])
    batch_of = torch.tensor([number for number, batch in enumerate(batches.values()) for _ in batch])
    gram = columns.whitened.T @ columns.keys  # G [n, n]
    seen = gram if session.settings.memory == Memory.joint else gram * (batch_of[:, None] <= batch_of)
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
