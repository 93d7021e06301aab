"""Edited weights as a fold over the columns that stand: no second moment, no data, no forward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.algebra.columns import Columns, Pair
from lifelong_edit.algebra.objective import AMPLIFICATION_LIMIT, Memory, append, materialise
from lifelong_edit.algebra.system import insertion, removal, replacement, solve_whole
from lifelong_edit.facts import canonical_json
from lifelong_edit.store import Column, History

LEAST = 1e-3  # of all that was changed: what a smaller delta loses in a cast is compared with that


@dataclass(frozen=True)
class Placed:
    """What stands in the system: the value of the column `value`, where the column `place` has it in ledger order."""

    place: Column
    value: Column


Batches = dict[int, tuple[Placed, ...]]
"""What stands, by the seq of the entry that makes it one batch, in ledger order."""

Reader = Callable[[Sequence[Column]], Columns]
"""Gives the columns of one weight."""


def standing(history: History, memory: Memory) -> Batches:
    """What stands for the active facts, every slot of which has its value.

    In batch memory each column of a slot's chain is a column of its own batch; a repair makes one batch, by its own
    seq, of what was written before it, in which the last of these values stands. In joint memory the last value takes
    the place where the slot was first written.
    """
    chains, repair = history.chains().values(), 0
    if memory == Memory.batch:
        repair = max((seq for seq in history.in_force if history.refits[seq] == "repair"), default=0)
        placed = [Placed(column, column) for chain in chains for column in _since(chain, repair)]
    else:
        first = history.first_columns()
        placed = [Placed(first[chain[-1].slot], chain[-1]) for chain in chains]
    batches: dict[int, list[Placed]] = {}
    for one in sorted(placed, key=lambda p: p.place):
        batches.setdefault(max(one.place.seq, repair), []).append(one)
    return {seq: tuple(batch) for seq, batch in batches.items()}


def _since(chain: Sequence[Column], repair: int) -> Sequence[Column]:
    """A chain less the columns for which a later one stands in since the repair."""
    return chain[max(sum(column.seq <= repair for column in chain) - 1, 0) :]


@dataclass(frozen=True)
class EditedLayer:
    """One edited layer: base weight W_0, what stands, its columns and pairs batch by batch, and W_0 plus all pairs.

    Both weights are [d_out, d_in]; `weight` is float64. `columns` and `pairs` are by the seq of the batch.
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
        """All that stands, in ledger order: the columns of `whole`."""
        return tuple(one for batch in self.batches.values() for one in batch)

    @property
    def whole(self) -> Columns:
        """The columns of all batches as one; there may be none."""
        d_out, d_in = self.base.shape
        nothing = torch.zeros(d_in, 0, dtype=torch.float64)
        none = Columns(nothing, nothing, torch.zeros(d_out, 0, dtype=torch.float64), torch.zeros(0).double(), ())
        return Columns.concatenate([none, *self.columns.values()])

    @property
    def earlier(self) -> Pair:
        """All pairs as one."""
        return Pair.concatenate([Pair.empty(*self.base.shape), *self.pairs.values()])

    def becoming(
        self,
        batches: Batches,
        read: Reader,
        known: Mapping[int, Pair] | None = None,
        new: int | None = None,
        amplification_limit: float = AMPLIFICATION_LIMIT,
    ) -> EditedLayer:
        """The layer in which `batches` stand: from the first batch that differs on, pairs are computed anew.

        `known` are pairs computed before for exactly these batches. Only the batch `new` is held against the
        amplification limit; what was accepted once is not measured again, because a revert can make a later residual
        nearly zero.
        """
        columns, pairs = self._unchanged(batches)
        weight = self.weight if len(pairs) == len(self.pairs) else materialise(self.base, pairs.values())
        earlier = Pair.concatenate([Pair.empty(*self.base.shape), *pairs.values()])
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
        `new` writes them.
        """
        if list(after.batches)[:-1] == list(self.batches) and len(self._unchanged(after.batches)[1]) == len(self.pairs):
            return next(reversed(after.pairs.values()))
        if _regrouped(self.batches, after.batches):
            return self._resolved(after)
        one, other = self.whole, after.whole
        before, later = self.placed, after.placed
        mine, theirs = {p.place: i for i, p in enumerate(before)}, {p.place: i for i, p in enumerate(later)}
        changed = [p for p in mine if p in theirs and before[mine[p]].value != later[theirs[p]].value]
        replaced = [p for p in changed if _share_key(one, mine[p], other, theirs[p])]
        gone = {i for p, i in mine.items() if p not in theirs or (p in changed and p not in replaced)}
        added = {i for p, i in theirs.items() if p not in mine or (p in changed and p not in replaced)}
        steps = [Pair.empty(*self.base.shape)]
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

    def _resolved(self, after: EditedLayer) -> Pair:
        """`after` - this weight as the difference of two whole solutions X Q', for columns in other batches."""
        columns = {p: i for i, p in enumerate(dict.fromkeys((*self.placed, *after.placed)))}
        d_out, d_in = self.base.shape
        pair = torch.zeros(d_out, len(columns)).double(), torch.zeros(d_in, len(columns)).double()
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
