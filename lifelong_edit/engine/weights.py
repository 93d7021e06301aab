"""Edited weights as a fold over a store's entries and records: no second moment, no data, no forward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.algebra.columns import Columns, Pair
from lifelong_edit.algebra.objective import Memory, fold, materialise
from lifelong_edit.editing.spread import LayerEdit
from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.facts import canonical_json
from lifelong_edit.store import KernelPart, KernelRecord, active
from lifelong_edit.store.entries import Entry
from lifelong_edit.store.store import Store

Batches = dict[int, Columns]  # by the seq of the edit, in ledger order


@dataclass(frozen=True)
class EditedLayer:
    """One edited layer: base weight W_0, the active columns of every edit, their pairs, and W_0 plus all pairs.

    Both weights are [d_out, d_in]; `weight` is float64.
    """

    name: str
    base: Tensor
    batches: Batches
    pairs: tuple[Pair, ...]
    weight: Tensor

    @classmethod
    def folded(cls, name: str, base: Tensor, batches: Batches, memory: Memory) -> EditedLayer:
        """The layer with just these batches. What was accepted once is not measured against limits again."""
        pairs = fold(list(batches.values()), memory, amplification_limit=float("inf"))
        return cls(name, base, batches, tuple(pairs), materialise(base, pairs))

    def with_batch(self, seq: int, edit: LayerEdit) -> EditedLayer:
        """The layer after one more edit."""
        batches = {**self.batches, seq: edit.columns}
        return EditedLayer(self.name, self.base, batches, (*self.pairs, edit.pair), edit.weight)

    def keeping(self, ids: Mapping[int, Sequence[str]], memory: Memory) -> EditedLayer:
        """The layer with just the facts named, by the seq of their edit."""
        return EditedLayer.folded(self.name, self.base, kept(self.batches, ids), memory)


def kept(batches: Batches, ids: Mapping[int, Sequence[str]]) -> Batches:
    """The columns of the facts named, batch by batch; a batch without any is left out."""
    return {
        seq: columns.take([i for i, name in enumerate(columns.names) if name in set(ids[seq])])
        for seq, columns in batches.items()
        if ids.get(seq)
    }


def active_ids(entries: Sequence[Entry]) -> dict[int, list[str]]:
    """The ids of the active facts by the seq of their edit."""
    return {seq: [fact.id for fact in facts] for seq, facts in active(entries).items()}


def read_layers(
    store: Store, entries: Sequence[Entry], bases: Mapping[int, tuple[str, Tensor]], memory: Memory
) -> dict[int, EditedLayer]:
    """Every edited layer folded to the state after `entries`. `bases` gives to each layer its weight's name and W_0."""
    records = {entry.seq: _edit_record(store, entry) for entry in entries if entry.kind == "edit"}
    ids, layers = active_ids(entries), {}
    for layer, (name, base) in bases.items():
        batches = {seq: _columns(record, name) for seq, record in records.items()}
        layers[layer] = EditedLayer.folded(name, base, kept(batches, ids), memory)
    return layers


def edit_record(ids: Sequence[str], edits: Mapping[str, tuple[Columns, Pair]]) -> KernelRecord:
    """The record of an edit from each weight's columns and delta."""
    parts = {
        name: KernelPart(
            left=pair.left.numpy(), right=pair.right.numpy(), keys=columns.keys.numpy(),
            whitened=columns.whitened.numpy(), base_residuals=columns.base_residuals.numpy(),
            ridge=columns.ridge.numpy(),
        )
        for name, (columns, pair) in edits.items()
    }  # fmt: skip
    return KernelRecord(tuple(ids), parts)


def delta_record(ids: Sequence[str], deltas: Mapping[str, Pair]) -> KernelRecord:
    """The record of a commit that brings no facts of its own: the weight delta only."""
    return KernelRecord(tuple(ids), {n: KernelPart(p.left.numpy(), p.right.numpy()) for n, p in deltas.items()})


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over float32 of the folded weights [d_out, d_in], sorted by name, whatever the live dtype."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        single = weights[name].to(torch.float32).cpu().contiguous()
        digest.update(canonical_json([name, list(single.shape)]).encode())
        digest.update(single.numpy().tobytes())
    return digest.hexdigest()


def survived(before: Tensor, after: Tensor, live_before: Tensor, live_after: Tensor) -> float:
    """The share of a delta that the cast to the live dtype kept: 1 - |live delta - delta| / |delta|, at least 0."""
    delta = after - before
    lost = ((live_after.double() - live_before.double()) - delta).norm() / delta.norm().clamp_min(1e-300)
    return max(0.0, 1.0 - float(lost.item()))


def _edit_record(store: Store, entry: Entry) -> KernelRecord:
    if entry.record is None:
        raise StoreCorrupt(f"edit {entry.seq} names no record. Restore the ledger from a backup.")
    return KernelRecord.from_bytes(store.objects.get(entry.record))


def _columns(record: KernelRecord, name: str) -> Columns:
    part = record.parts.get(name)
    if part is None or not record.is_edit:
        raise StoreCorrupt(f"the record of an edit holds no facts for {name}. Restore it from a backup.")
    fields = {key: torch.from_numpy(value) for key, value in part.tensors().items() if key not in ("left", "right")}
    return Columns(**fields, names=record.facts)
