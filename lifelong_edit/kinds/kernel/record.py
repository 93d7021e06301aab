"""The columns that a store's records hold, read when they are first needed, and what a commit writes as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lifelong_edit.algebra.columns import Columns, Pair
from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.kinds.kernel.state import Read
from lifelong_edit.store import Column, Entry, KernelPart, KernelRecord, Store

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
