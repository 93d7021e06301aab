"""The state of the kernel kind: edited weights as a fold over the columns that stand.

Neither second moments nor data nor a forward pass are needed: a record holds what its columns add to the system.
`Library` reads the columns of a store's records when they are first needed; `record_of` is what a commit writes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lifelong_edit.algebra.system import (
    AMPLIFICATION_LIMIT,
    Columns,
    Memory,
    Pair,
    append,
    insertion,
    materialise,
    removal,
    replacement,
    solve_whole,
)
from lifelong_edit.errors import SolveError, StoreCorrupt
from lifelong_edit.facts import canonical_json
from lifelong_edit.kinds.deviation import Deviation
from lifelong_edit.kinds.kind import State
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store import Column, Entry, History, KernelPart, KernelRecord, Store

LEAST = 1e-3  # of all that was changed: what a smaller delta loses in a cast is compared with that


@dataclass(frozen=True)
class Placed:
    """One column of the system T: `place` fixes its position (ledger order), `value` where its numbers are read."""

    place: Column
    value: Column


Batches = dict[int, tuple[Placed, ...]]
"""The columns of the system in ledger order, grouped by the seq of the entry that makes them one batch."""

Read = Callable[[Sequence[Column]], Columns]
"""Reads the numbers of columns of one weight."""


def standing(history: History, memory: Memory) -> Batches:
    """The columns that hold the active facts, grouped into the batches they are solved in.

    Every slot with active facts needs a value. In batch memory each column of a slot's chain is a column of its own
    batch; a repair makes one batch, by its own seq, of what was written before it, in which the last of these values
    stands. In joint memory the last value takes the place where the slot was first written.
    """
    chains, repair = history.full_chains(), 0
    if memory == Memory.batch:
        repair = max((seq for seq in history.in_force if history.refits[seq] == "repair"), default=0)
        placed = [Placed(column, column) for chain in chains.values() for column in _since(chain, repair)]
    else:
        first = history.first_columns()
        placed = [Placed(first[slot], chain[-1]) for slot, chain in chains.items()]
    batches: dict[int, list[Placed]] = {}
    for one in sorted(placed, key=lambda p: p.place):
        batches.setdefault(max(one.place.seq, repair), []).append(one)
    return {seq: tuple(batch) for seq, batch in batches.items()}


def _since(chain: Sequence[Column], repair: int) -> Sequence[Column]:
    """The slot's columns, with those before a repair replaced by the last of them."""
    return chain[max(sum(column.seq <= repair for column in chain) - 1, 0) :]


@dataclass(frozen=True)
class EditedLayer:
    """One edited layer: base weight W_0, the columns of its system, and W_0 plus the delta of every batch.

    Both weights are [d_out, d_in], on one device; `weight` is float64. `columns` and `pairs` (the deltas) are by the
    seq of the batch.
    """

    name: str
    base: Tensor
    memory: Memory
    batches: Batches
    columns: dict[int, Columns]
    pairs: dict[int, Pair]
    weight: Tensor

    @classmethod
    def unedited(cls, name: str, base: Tensor, memory: Memory) -> EditedLayer:
        """The layer before the first edit."""
        return cls(name, base, memory, {}, {}, {}, base.double())

    @property
    def placed(self) -> tuple[Placed, ...]:
        """The columns of `whole`, in ledger order."""
        return tuple(one for batch in self.batches.values() for one in batch)

    @property
    def whole(self) -> Columns:
        """The columns of all batches as one; there may be none."""
        d_out, d_in = self.base.shape
        empty = self.base.new_zeros(d_in + d_out + 1, 0, dtype=torch.float64)
        keys, residuals, ridge = empty[:d_in], empty[d_in:-1], empty[-1]
        return Columns.concatenate([Columns(keys, keys, residuals, ridge, ()), *self.columns.values()])

    @property
    def earlier(self) -> Pair:
        """All pairs as one."""
        return Pair.concatenate([self.nothing, *self.pairs.values()])

    @property
    def nothing(self) -> Pair:
        """The delta that changes nothing."""
        d_out, d_in = self.base.shape
        return Pair.empty(d_out, d_in, self.base.device)

    def becoming(
        self,
        batches: Batches,
        read: Read,
        known: Mapping[int, Pair] | None = None,
        new: int | None = None,
        amplification_limit: float = AMPLIFICATION_LIMIT,
    ) -> EditedLayer:
        """The layer in which `batches` stand: from the first batch that differs on, pairs are computed anew.

        `known` are pairs computed before for exactly these batches. Only the batch `new` is held against the
        amplification limit; what was accepted once is not measured again, because a revert can make a later residual
        nearly zero.
        """
        # The batches that both states begin with keep their pairs; the weight is summed anew, since nothing is ever
        # subtracted from it.
        columns, pairs = self._unchanged(batches)
        weight = self.weight if len(pairs) == len(self.pairs) else materialise(self.base, pairs.values())
        earlier = Pair.concatenate([self.nothing, *pairs.values()])
        for seq in list(batches)[len(pairs) :]:
            columns[seq] = read([one.value for one in batches[seq]])
            limit = amplification_limit if seq == new else float("inf")
            pairs[seq] = known[seq] if known else append(columns[seq], earlier, self.memory, limit)
            earlier = Pair.concatenate([earlier, pairs[seq]])
            weight = weight + pairs[seq].dense()
        return EditedLayer(self.name, self.base, self.memory, batches, columns, pairs, weight)

    def delta_to(
        self, after: EditedLayer, new: int | None = None, amplification_limit: float = AMPLIFICATION_LIMIT
    ) -> Pair:
        """`after` - this weight as a thin pair: columns taken out, values replaced in place, columns put in.

        Columns put in are held against the amplification limit, values that replace others only where the entry
        `new` writes them. Where the system is too ill-conditioned for that and no limit is to be held (one can always
        go back), it is the difference of the two folds, which need no such solve.
        """
        try:
            return self._stepped(after, new, amplification_limit)
        except SolveError:
            if amplification_limit < math.inf:
                raise
        return Pair.concatenate([Pair(-self.earlier.left, self.earlier.right), after.earlier]).thinned()

    def _stepped(self, after: EditedLayer, new: int | None, amplification_limit: float) -> Pair:
        """`delta_to` by solving for the columns that go, change or come alone."""
        # One more batch and nothing else: its own pair is the delta.
        if list(after.batches)[:-1] == list(self.batches) and len(self._unchanged(after.batches)[1]) == len(self.pairs):
            return next(reversed(after.pairs.values()))
        if _regrouped(self.batches, after.batches):
            return self._resolved(after)
        # Which places lose their column, which get one, and which only another value for the same key and ridge.
        one, other = self.whole, after.whole
        before, later = self.placed, after.placed
        mine, theirs = {p.place: i for i, p in enumerate(before)}, {p.place: i for i, p in enumerate(later)}
        changed = [p for p in mine if p in theirs and before[mine[p]].value != later[theirs[p]].value]
        replaced = [p for p in changed if _share_key(one, mine[p], other, theirs[p])]
        gone = {i for p, i in mine.items() if p not in theirs or (p in changed and p not in replaced)}
        added = {i for p, i in theirs.items() if p not in mine or (p in changed and p not in replaced)}
        # In this order each step is a solve in the system that the steps before it left.
        steps = [self.nothing]
        if gone:
            steps.append(removal(list(self.columns.values()), self.memory, gone))
        core = _without(list(self.columns.values()), gone) if replaced else []
        left = [p for p, i in mine.items() if i not in gone]
        for written, limit in ((False, float("inf")), (True, amplification_limit)):
            some = [p for p in replaced if (later[theirs[p]].value.seq == new) == written]
            now, then = [mine[p] for p in some], [theirs[p] for p in some]
            if some:
                shift = other.base_residuals[:, then] - one.base_residuals[:, now]  # [d_out, r]
                steps.append(replacement(core, self.memory, [left.index(p) for p in some], shift, limit))
        if added:
            steps.append(insertion(list(after.columns.values()), self.memory, added, amplification_limit))
        return Pair.concatenate(steps)

    def away(self, weight: Tensor) -> float:
        """|W - weight| / |W_0|, Frobenius norms."""
        return float((self.weight - weight.double()).norm() / self.base.double().norm())

    def leaving_out(self, which: Sequence[int]) -> EditedLayer:
        """The layer with the weight that is left when the columns at these positions are taken out."""
        left = self.weight + removal(list(self.columns.values()), self.memory, which).dense() if which else self.weight
        return replace(self, batches={}, columns={}, pairs={}, weight=left)

    def _resolved(self, after: EditedLayer) -> Pair:
        """`after` - this weight as the difference of two whole solutions X Q', for columns in other batches."""
        columns = {p: i for i, p in enumerate(dict.fromkeys((*self.placed, *after.placed)))}
        d_out, d_in = self.base.shape
        sides = self.base.new_zeros(d_out + d_in, len(columns), dtype=torch.float64)
        pair = sides[:d_out], sides[d_out:]
        for sign, layer in ((-1.0, self), (1.0, after)):
            where = [columns[p] for p in layer.placed]
            pair[0][:, where] += sign * solve_whole(list(layer.columns.values()) or [layer.whole], layer.memory)
            pair[1][:, where] = layer.whole.whitened
        return Pair(*pair)

    def _unchanged(self, batches: Batches) -> tuple[dict[int, Columns], dict[int, Pair]]:
        """Columns and pairs of the first batches that stand in `batches` just as they stand here."""
        columns, pairs = {}, {}
        for (seq, placed), (own_seq, own) in zip(batches.items(), self.batches.items(), strict=False):
            if (seq, placed) != (own_seq, own):
                break
            columns[seq], pairs[seq] = self.columns[seq], self.pairs[seq]
        return columns, pairs


@dataclass(frozen=True)
class KernelState(State):
    """All edited layers of a model, by number: a value that is folded on, compared, digested and put on a model.

    All layers hold columns of the same facts in the same batches.
    """

    layers: Mapping[int, EditedLayer]

    @classmethod
    def unedited(cls, editable: EditableModel, numbers: Sequence[int], memory: Memory) -> KernelState:
        """The layers `numbers` of a model before the first edit."""
        return cls({n: EditedLayer.unedited(editable.weight_name(n), editable.weight(n), memory) for n in numbers})

    @cached_property
    def digest(self) -> str:
        """The weights digest of the layers."""
        return weights_digest({layer.name: layer.weight for layer in self.layers.values()})

    @property
    def weights(self) -> dict[int, Tensor]:
        """The folded weights [d_out, d_in] by layer, float64."""
        return {n: layer.weight for n, layer in self.layers.items()}

    @property
    def one(self) -> EditedLayer:
        """One of the layers, for what they have in common: batches and placed columns."""
        return next(iter(self.layers.values()))

    def attach(self, editable: EditableModel) -> None:
        """Write the folded weights into the model."""
        editable.set_weights(self.weights)

    def apart(self, editable: EditableModel) -> EditableModel:
        """A model that has the folded weights and shares all other tensors."""
        return editable.sharing(self.weights)

    def becoming(
        self,
        batches: Batches,
        read: Callable[[str], Read],
        known: Mapping[str, Mapping[int, Pair]] | None = None,
        new: int | None = None,
        amplification_limit: float = AMPLIFICATION_LIMIT,
    ) -> KernelState:
        """The state in which `batches` stand (see `EditedLayer.becoming`); `read` gives the reader of a weight."""
        return KernelState(
            {
                n: layer.becoming(batches, read(layer.name), (known or {}).get(layer.name), new, amplification_limit)
                for n, layer in self.layers.items()
            }
        )

    def delta_to(
        self, after: KernelState, new: int | None = None, amplification_limit: float = AMPLIFICATION_LIMIT
    ) -> dict[str, Pair]:
        """To each weight `after` - this state as a thin pair (see `EditedLayer.delta_to`)."""
        return {
            layer.name: layer.delta_to(after.layers[n], new, amplification_limit) for n, layer in self.layers.items()
        }

    def deviation(self, summed: Mapping[str, Tensor]) -> Deviation:
        """How far the folded weights are from others, by name, to which the same facts led in another way."""
        layers = self.layers.values()
        return Deviation.worst(Deviation.of(layer.base, layer.weight, summed[layer.name]) for layer in layers)

    def leaving_out(self, gone: Callable[[Placed, int], bool]) -> KernelState:
        """The state without the columns for which `gone`, told column and batch, is true; all others as stored.

        For trials only: it holds weights, and no batches to fold on from.
        """
        places = [(placed, seq) for seq, batch in self.one.batches.items() for placed in batch]
        which = [i for i, (placed, seq) in enumerate(places) if gone(placed, seq)]
        return KernelState({n: layer.leaving_out(which) for n, layer in self.layers.items()})


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over float32 of the folded weights [d_out, d_in], sorted by name, whatever the live dtype."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        single = weights[name].to(torch.float32).cpu().contiguous()
        digest.update(canonical_json([name, list(single.shape)]).encode())
        digest.update(single.numpy().tobytes())
    return digest.hexdigest()


def survived(base: Tensor, before: Tensor, after: Tensor, live_before: Tensor, live_after: Tensor) -> float:
    """The share of a delta that the cast to the live dtype kept: 1 - |live delta - delta| / |delta|, at least 0.

    A delta counts as no less than a thousandth of all that was changed in the base: an entry that puts a value in an
    equal one's place has a delta of rounding alone, and nothing to lose.
    """
    delta = after - before
    size = max(float(delta.norm()), LEAST * float((after - base).norm()), 1e-300)
    lost = float(((live_after.double() - live_before.double()) - delta).norm()) / size
    return max(0.0, 1.0 - lost)


def _regrouped(one: Batches, other: Batches) -> bool:
    """Whether a place that both have is in another batch."""
    mine, theirs = ({p.place: seq for seq, batch in batches.items() for p in batch} for batches in (one, other))
    return any(mine[place] != theirs[place] for place in mine.keys() & theirs.keys())


def _share_key(one: Columns, i: int, other: Columns, j: int) -> bool:
    """Whether column i of `one` and column j of `other` differ in their values alone."""
    return torch.equal(one.keys[:, i], other.keys[:, j]) and bool(one.ridge[i] == other.ridge[j])


def _without(batches: Sequence[Columns], gone: Collection[int]) -> list[Columns]:
    """The batches less the columns at the positions `gone`, which count through all of them."""
    kept, start = [], 0
    for columns in batches:
        kept.append(columns.take([i for i in range(len(columns)) if start + i not in gone]))
        start += len(columns)
    return kept


ByWeight = Mapping[str, Columns]


class Library:
    """The columns in a store's records, by the seq of their entry and the name of their weight.

    Records are read once, checked, and put on the device of the weights they are computed with.
    """

    def __init__(self, store: Store, entries: Sequence[Entry], device: torch.device) -> None:
        self._store, self._device = store, device
        self._records = {entry.seq: entry.record for entry in entries}
        self._read: dict[int, ByWeight] = {}

    @property
    def recorded(self) -> list[int]:
        """The entries that changed the weights."""
        return [seq for seq, record in self._records.items() if record is not None]

    def at(self, seq: int) -> ByWeight:
        """All columns of one entry's record; `StoreCorrupt` when it has none or cannot be trusted."""
        if seq not in self._read:
            self._read[seq] = columns_of(self.record(seq), seq, self._device)
        return self._read[seq]

    def record(self, seq: int) -> KernelRecord:
        """The record of an entry that changed the weights."""
        digest = self._records.get(seq)
        if digest is None:
            raise StoreCorrupt(f"entry {seq} names no record. Restore the ledger from a backup.")
        try:
            return KernelRecord.from_bytes(self._store.objects.get(digest))
        except StoreCorrupt as error:
            raise StoreCorrupt(f"entry {seq}: {error}") from error

    def deltas(self, seq: int) -> dict[str, Pair]:
        """The recorded change of each weight by one entry."""
        parts = self.record(seq).parts
        return {
            name: Pair(*(torch.from_numpy(side).to(self._device) for side in (part.left, part.right)))
            for name, part in parts.items()
        }

    def add(self, entry: Entry, columns: ByWeight) -> None:
        """A new entry, with the columns of its record where it has any."""
        self._records[entry.seq] = entry.record
        if columns:
            self._read[entry.seq] = columns

    def reader(self, name: str, pending: Mapping[int, ByWeight] | None = None) -> Read:
        """The function that reads columns of the weight `name`; `pending` are those of an entry not committed yet."""

        def read(columns: Sequence[Column]) -> Columns:
            found = [self._columns(column, name, pending or {}) for column in columns]
            sources = {id(source) for source, _ in found}
            if len(sources) == 1:
                return found[0][0].take([index for _, index in found])
            return Columns.concatenate([source.take([index]) for source, index in found])

        return read

    def _columns(self, column: Column, name: str, pending: Mapping[int, ByWeight]) -> tuple[Columns, int]:
        by_weight = pending.get(column.seq) or self.at(column.seq)
        if name not in by_weight or column.index >= len(by_weight[name]):
            raise StoreCorrupt(
                f"the record of entry {column.seq} has no column {column.index} for {name}. Restore it from a backup."
            )
        return by_weight[name], column.index


def columns_of(record: KernelRecord, seq: int, device: torch.device) -> dict[str, Columns]:
    """The columns in a record, by weight; `StoreCorrupt` naming the entry when it holds none."""
    if not record.is_edit:
        raise StoreCorrupt(f"the record of entry {seq} holds no facts. Restore it from a backup.")
    return {
        name: Columns(
            **{
                key: torch.from_numpy(value).to(device)
                for key, value in part.tensors().items()
                if key not in ("left", "right")
            },
            names=record.facts,
        )
        for name, part in record.parts.items()
    }


def record_of(deltas: Mapping[str, Pair], columns: ByWeight, facts: Sequence[str]) -> KernelRecord:
    """The record of a commit: to each weight its delta and, where the commit brings any, its new columns.

    `facts` are the ids a revert or restore names; the columns bring their own names.
    """
    parts, names = {}, tuple(facts)
    for name, pair in deltas.items():
        own: dict[str, torch.Tensor] = {"left": pair.left, "right": pair.right}
        if columns:
            held = columns[name]
            names = held.names
            own |= {
                "keys": held.keys,
                "whitened": held.whitened,
                "base_residuals": held.base_residuals,
                "ridge": held.ridge,
            }
        parts[name] = KernelPart(**{key: value.cpu().numpy() for key, value in own.items()})
    return KernelRecord(names, parts)
