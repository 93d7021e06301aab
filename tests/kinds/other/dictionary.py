"""A second kind of memory, for tests: a dictionary from slots to answers, looked up at the edited projection.

Where the projection's input is a key of the dictionary, its output is the value; no weight is touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lifelong_edit.editing.keys import collect_keys, prefixed
from lifelong_edit.editing.targets import optimise_targets
from lifelong_edit.kinds.kind import Change, Head, How, Kind, State
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store import Column, Entry, History, Store
from lifelong_edit.store.objects import TensorRecord, read_record

NEAR = 1e-3  # of a key's length: what batching and padding change in it is less
Pair = tuple[Tensor, Tensor]  # key [d_in], value [d_out]; float64


@dataclass(frozen=True)
class Dictionary(State):
    """What stands at the projection of one layer, by slot."""

    layer: int
    held: Mapping[str, Pair] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        told = [(slot, *(side.tolist() for side in self.held[slot])) for slot in sorted(self.held)]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def attach(self, editable: EditableModel) -> None:
        write = editable.write(self.layer)
        editable.attach([write.register_forward_hook(self._looked_up)] if self.held else [])

    def _looked_up(self, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys, values = (torch.stack(side) for side in zip(*self.held.values(), strict=True))
        apart = torch.cdist(args[0].flatten(0, -2).double(), keys) / keys.norm(dim=1)  # [B T, n]
        nearest, which = apart.min(dim=1)
        found = (nearest < NEAR).view(*output.shape[:-1], 1)
        return torch.where(found, values[which].view(output.shape).to(output.dtype), output)


@dataclass(frozen=True, kw_only=True)
class Lookups(Change):
    new: tuple[Pair, ...]


class DictionaryKind(Kind):
    name = "dictionary"
    promise = "exact"

    def __init__(self, store: Store, entries: Sequence[Entry], *model: Any) -> None:
        super().__init__(store, entries, *model)
        self._records = {entry.seq: entry.record for entry in entries}

    @classmethod
    def pin(cls, *_given: Any) -> dict[str, Any]:
        return {"base_weights": Dictionary(0).digest}

    @classmethod
    def check_record(cls, data: bytes) -> tuple[str, ...]:
        return read_record(data, cls.name).facts

    def unedited(self, editable: EditableModel) -> Dictionary:
        return Dictionary(self.settings.layers[0])

    def fold(self, history: History, start: State) -> Dictionary:
        return self._standing(history, {})

    def _standing(self, history: History, new: Mapping[Column, Pair]) -> Dictionary:
        last = history.last_columns()
        return Dictionary(self.settings.layers[0], {s: new.get(c) or self._read(c) for s, c in last.items()})

    def _read(self, column: Column) -> Pair:
        record = read_record(self.store.objects.get(str(self._records[column.seq])), self.name)
        assert isinstance(record, TensorRecord)
        key, value = (torch.from_numpy(record.tensors[f"{column.index}/{side}"]) for side in ("key", "value"))
        return key, value

    def choose(self, method: str, ridge: float | None, count: int, protecting: bool = False) -> How:
        return How(method, {})

    def write(self, head: Head, kind: str, body: dict[str, Any], how: How | None = None) -> Lookups:
        after, layer, new = head.history.then(head.seq, kind, body), self.settings.layers[0], list[Pair]()
        slots = after.slots()
        groups = [list(slots[slot]) for slot, chain in after.chains().items() if not chain]
        if groups:
            body, after = {**body, "columns": groups}, after.holding(head.seq, groups)
            requests = [[after.facts[id].request for id in group] for group in groups]
            with self.showing(self.base) as editable:
                keys = collect_keys(editable, [group[0] for group in requests], layer, prefixed(()))  # [d_in, n]
                delta = optimise_targets(editable, requests, layer, (), self.settings.target).delta  # [d_out, n]
                values = editable.write(layer)(keys.T.to(editable.dtype)).double().T + delta
            new = list(zip(keys.T, values.T, strict=True))
        columns = [column for column in after.columns if column.seq == head.seq]
        return Lookups(kind, body, after, self._standing(after, dict(zip(columns, new, strict=True))), new=tuple(new))

    def record(self, change: Change, facts: Sequence[str]) -> bytes:
        pairs = change.new if isinstance(change, Lookups) else ()
        tensors = {f"{i}/{side}": p[n].numpy() for i, p in enumerate(pairs) for n, side in enumerate(("key", "value"))}
        own = [group[-1] for group in change.body["columns"]] if pairs else facts
        return TensorRecord(self.name, tuple(own), tensors).to_bytes()

    def taken(self, entry: Entry, change: Change) -> None:
        self._records[entry.seq] = entry.record

    def distances(self, one: State, other: State) -> dict[str, float]:
        return {}


KIND = DictionaryKind
