"""Records: the change one commit made to the weights, as a safetensors file; equal content gives equal bytes.

A file has one metadata key, ``record``, holding canonical JSON; its ``kind`` says how the tensors are read. The
bytes of several metadata keys would depend on the order of a hash table. ``kernel`` is the first kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lifelong_edit.errors import StoreCorrupt, StoreError
from lifelong_edit.facts import canonical_json

MAX_HEADER = 1 << 20
Array = npt.NDArray[np.float64]


def most_bytes(values: int) -> int:
    """The most bytes that a file of so many float64 values has."""
    return 8 + MAX_HEADER + 8 * values


def encode(tensors: Mapping[str, Array], meta: Mapping[str, Any]) -> bytes:
    """Write float64 tensors and JSON metadata as one safetensors file; the same content gives the same bytes.

    Raises `StoreError` for what `decode` would refuse: another dtype, a value that is not finite, a long header.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != np.float64 or not np.isfinite(tensor).all():
            raise StoreError(f"tensor {name!r} is not float64 and finite; a record of it is not written.")
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())}
    data: bytes = save(arrays, metadata={"record": canonical_json(meta)})
    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise StoreError(f"the record's header exceeds {MAX_HEADER} bytes. Commit smaller batches or use shorter ids.")
    return data


def decode(data: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read back the tensors and the metadata that `encode` wrote; `StoreCorrupt` for any other bytes.

    A long header is refused from the first eight bytes; repeated names, other dtypes, overlapping tensors and
    values that are not finite are refused before anything is computed with them.
    """
    size = int.from_bytes(data[:8], "little")
    if not 8 + size <= len(data) or size > MAX_HEADER:
        raise StoreCorrupt(f"a record claims a header of {size} bytes; the limit is {MAX_HEADER} and the file's end.")
    try:
        meta = _checked_header(str(data[8 : 8 + size], "utf-8"))
        tensors: dict[str, Array] = load(data)
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("a tensor has values that are not finite")
    except (ValueError, RecursionError, SafetensorError) as error:
        raise StoreCorrupt(f"a record cannot be read: {error}. Restore it from a backup.") from error
    return tensors, meta


def _checked_header(text: str) -> dict[str, Any]:
    """The metadata of a safetensors header; `ValueError` unless it is one this module writes."""
    header = _strict_json(text)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or set(metadata) != {"record"} or not isinstance(metadata["record"], str):
        raise ValueError("its metadata is not the one key 'record'")
    for name, tensor in header.items():
        if not isinstance(tensor, dict) or tensor.get("dtype") != "F64":
            raise ValueError(f"tensor {name[:80]!r} is not float64")
    meta = _strict_json(metadata["record"])
    if canonical_json(meta) != metadata["record"]:
        raise ValueError("its metadata is not canonical JSON")
    return meta


def _strict_json(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_distinct)
    if not isinstance(value, dict):
        raise ValueError("a JSON object was expected")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands twice")
    return values


class Record(Protocol):
    """What a store needs to know of a record, whatever its kind; how records become weights is up to the kind."""

    @property
    def kind(self) -> str:
        """The name of the kind of memory that made it."""

    @property
    def facts(self) -> tuple[str, ...]:
        """Ids of the facts that the commit writes, takes out or restores."""

    def to_bytes(self) -> bytes:
        """The record as a file; `StoreError` when its tensors cannot be kept."""


@dataclass(frozen=True, eq=False)
class KernelPart:
    """The change one commit made to one weight W [d_out, d_in], in low rank: W_after = W_before + left right'.

    An edit also keeps the n columns it solved for, from which the weight can be rebuilt with any subset of them.
    A revert that writes no values has none.
    """

    left: Array  # Y_t   [d_out, r]
    right: Array  # Z_t  [d_in, r]
    keys: Array | None = None  # K  [d_in, n]
    whitened: Array | None = None  # Q = C^-1 K  [d_in, n]
    base_residuals: Array | None = None  # R_0 = V - W_0 K  [d_out, n]
    ridge: Array | None = None  # diagonal of Lambda  [n]

    def tensors(self) -> dict[str, Array]:
        """The tensors that are present, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def fits(self, count: int) -> bool:
        """Whether the shapes agree with each other and, where there are columns, with `count` of them."""
        if self.left.ndim != 2 or self.right.ndim != 2:
            return False
        (d_out, rank), d_in = self.left.shape, self.right.shape[0]
        delta = {"left": (d_out, rank), "right": (d_in, rank)}
        memory = {"keys": (d_in, count), "whitened": (d_in, count), "base_residuals": (d_out, count), "ridge": (count,)}
        return {name: tensor.shape for name, tensor in self.tensors().items()} in (delta, delta | memory)


@dataclass(frozen=True, eq=False)
class KernelRecord:
    """The record of a closed-form editor's commit: a `KernelPart` for each edited weight, by the weight's name.

    `facts` has one id for each column, or the ids that a revert takes out. Raises `StoreError` on construction when
    shapes do not agree or the parts are not alike.
    """

    facts: tuple[str, ...]
    parts: Mapping[str, KernelPart]
    kind: ClassVar[str] = "kernel"

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if not part.fits(len(self.facts)) or not re.fullmatch(r"[A-Za-z0-9_.\-]+", name):
                shapes = {key: tensor.shape for key, tensor in part.tensors().items()}
                raise StoreError(f"the record of {len(self.facts)} facts cannot have for {name[:80]!r} {shapes}.")
        if len({part.keys is None for part in self.parts.values()}) != 1:
            raise StoreError("a record needs at least one weight, and keys for all of its weights or for none.")

    @property
    def is_edit(self) -> bool:
        """Whether the record has columns; otherwise it is only the change of the weights."""
        return all(part.keys is not None for part in self.parts.values())

    def to_bytes(self) -> bytes:
        """The record as a file; `StoreError` when a tensor is not float64 and finite."""
        tensors = {f"{name}/{key}": value for name, part in self.parts.items() for key, value in part.tensors().items()}
        return encode(tensors, {"kind": self.kind, "facts": list(self.facts)})

    @classmethod
    def from_bytes(cls, data: bytes) -> KernelRecord:
        """Read a kernel record; `StoreCorrupt` when the bytes are damaged or a record of another kind."""
        record = read_record(data)
        if not isinstance(record, cls):
            raise StoreCorrupt(f"a record of kind {record.kind!r} stands where {cls.kind!r} was expected.")
        return record

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Array], meta: Mapping[str, Any]) -> KernelRecord:
        """Build the record from decoded tensors and metadata; `StoreCorrupt` when they do not fit together."""
        grouped: dict[str, dict[str, Array]] = {}
        for name, tensor in tensors.items():
            weight, _, key = name.rpartition("/")
            grouped.setdefault(weight, {})[key] = tensor
        facts = meta.get("facts")
        if set(meta) != {"kind", "facts"} or not isinstance(facts, list) or not all(isinstance(f, str) for f in facts):
            raise StoreCorrupt("a kernel record's metadata is not its kind and a list of fact ids.")
        try:
            return cls(tuple(facts), {weight: KernelPart(**parts) for weight, parts in grouped.items()})
        except (TypeError, StoreError) as error:  # TypeError: an unknown tensor name, or left or right missing
            raise StoreCorrupt(f"a kernel record does not fit together: {error}") from error


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A commit of a kind of memory that this page knows nothing of: its name, fact ids, and tensors by name."""

    kind: str
    facts: tuple[str, ...]
    tensors: Mapping[str, Array]

    def to_bytes(self) -> bytes:
        """The record as a file; `StoreError` when a tensor is not float64 and finite."""
        return encode(self.tensors, {"kind": self.kind, "facts": list(self.facts)})


def read_record(data: bytes, kind: str = KernelRecord.kind) -> Record:
    """The record of a file, which must be of this kind; `StoreCorrupt` when it is damaged or of another."""
    tensors, meta = decode(data)
    if meta.get("kind") != kind:
        raise StoreCorrupt(f"a record of kind {str(meta.get('kind'))[:80]!r} was made by a newer version. Upgrade.")
    if kind == KernelRecord.kind:
        return KernelRecord.from_tensors(tensors, meta)
    facts = meta.get("facts")
    if set(meta) != {"kind", "facts"} or not isinstance(facts, list) or not all(isinstance(f, str) for f in facts):
        raise StoreCorrupt(f"a {kind} record's metadata is not its kind and a list of fact ids.")
    return TensorRecord(kind, tuple(facts), tensors)
