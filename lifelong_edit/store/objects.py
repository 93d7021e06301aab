"""Content-addressed files: a record's name is the SHA-256 of its bytes, checked on every read.

A record is the change that one commit made, as a safetensors file; equal content gives equal bytes. It has one metadata
key, ``record``, holding canonical JSON; its ``kind`` says how the tensors are read. The
bytes of several metadata keys would depend on the order of a hash table. ``kernel`` is the first kind.
What the operating system and SQLite report is raised as this package's errors, which say what to do.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lifelong_edit.errors import RequestError, StoreBusy, StoreCorrupt, StoreError, StoreReadOnly
from lifelong_edit.facts import canonical_json

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_digest(value: object) -> bool:
    """Whether `value` is a SHA-256 as the store spells it: 64 lower-case hex digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


class ObjectStore:
    """The files ``ab/abcd....safetensors`` below `root`. No name from outside ever becomes part of a path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the object lies; `StoreCorrupt` when `digest` is not 64 hex digits."""
        if not is_digest(digest):
            raise StoreCorrupt(
                f"{digest[:80]!r} is not the SHA-256 of an object. Restore the ledger that names it from a backup."
            )
        return self.root / digest[:2] / f"{digest}.safetensors"

    def has(self, digest: str) -> bool:
        """Whether a file of that name is there; its bytes are not read. `StoreCorrupt` for a malformed digest."""
        path = self.path(digest)
        with disk_errors("reading", path):
            return path.is_file() and not path.is_symlink()

    def put(self, data: bytes) -> str:
        """Write `data` durably and return its digest.

        The write is never skipped: an object left by an interrupted process may not have reached the disk, and a
        damaged one is healed. Raises `StoreReadOnly` or `StoreError` naming the file.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        with disk_errors("writing", path), _opened_folder(self.root) as root:
            with suppress(FileExistsError):
                os.mkdir(digest[:2], dir_fd=root)
            os.fsync(root)
            with _opened_folder(digest[:2], root) as folder:
                _place(path.name, data, folder)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes whose SHA-256 is `digest`.

        Raises `StoreCorrupt` naming the digest when the object is missing, is a link or has other bytes, and
        `StoreError` when it cannot be read.
        """
        path = self.path(digest)
        with disk_errors("reading", path):
            try:
                with _opened_folder(self.root) as root, _opened_folder(digest[:2], root) as folder:
                    data = _read(path.name, folder)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                    raise
                raise StoreCorrupt(
                    f"object {digest} is missing or not a plain file: {path}. Restore it from a backup."
                ) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreCorrupt(f"object {digest} does not have the bytes it is named by. Restore it from a backup.")
        return data


def replace_file(path: Path, data: bytes) -> None:
    """Make `data` the whole content of `path` at once, durably; a crash leaves the old content or the new.

    The folder must exist and be no link. Raises `StoreReadOnly` or `StoreError` naming the file.
    """
    with disk_errors("writing", path), _opened_folder(path.parent) as folder:
        _place(path.name, data, folder)


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a file that can be made again; `StoreError` when it is no regular file or has more than `limit`.

    The folder must be no link either. Nothing beyond the limit is read, and no pipe is waited for.
    """
    with disk_errors("reading", path), _opened_folder(path.parent) as folder:
        return _read(path.name, folder, limit)


def adopt_file(finished: Path, path: Path) -> None:
    """Make the file `finished`, of the same file system, appear as `path` at once, durably.

    Raises `StoreReadOnly` or `StoreError` naming the file.
    """
    with disk_errors("writing", path), _opened_folder(path.parent) as folder:
        with open(finished, "rb") as file:
            os.fsync(file.fileno())
        os.rename(finished, path.name, dst_dir_fd=folder)
        os.fsync(folder)


def _place(name: str, data: bytes, folder: int) -> None:
    """Make the whole file appear under `name` at once, durably; on failure nothing is left."""
    temporary = f"{name}.{secrets.token_hex(8)}.tmp"
    try:
        with open(os.open(temporary, WRITE_FLAGS, 0o666, dir_fd=folder), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def _read(name: str, folder: int, limit: int | None = None) -> bytes:
    with open(os.open(name, READ_FLAGS, dir_fd=folder), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.ELOOP, "not a plain file", name)
        if limit is not None and about.st_size > limit:
            raise OSError(errno.EFBIG, f"{about.st_size} bytes, of at most {limit}", name)
        return file.read()


@contextmanager
def _opened_folder(path: Path | str, parent: int | None = None) -> Iterator[int]:
    """A descriptor of the folder; a symbolic link is refused."""
    descriptor = os.open(path, FOLDER_FLAGS, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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


DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)
DENIED_ADVICE = "Use a copy of the store that this user may write."

READING = ("opening", "reading")  # in these, SQLite has something to write only when a journal must be rolled back
RESTORE = "Restore the ledger from a backup."
INTERRUPTED_COMMIT = "A writer died in the middle of a commit. Open the store for writing once; that takes it back."

# What SQLite says, the error it is, what to do. By text: error codes reach Python only from 3.11 on.
SQLITE_FAULTS: tuple[tuple[str, type[StoreError], str], ...] = (
    ("locked", StoreBusy, "Another process is using the ledger; try again when it is done."),
    ("readonly", StoreReadOnly, DENIED_ADVICE),
    ("not a database", StoreCorrupt, RESTORE),
    ("malformed", StoreCorrupt, RESTORE),
    ("could not decode", StoreCorrupt, RESTORE),
    ("no such table", StoreCorrupt, RESTORE),
    ("no such column", StoreCorrupt, RESTORE),
    ("unsupported file format", StoreCorrupt, RESTORE),
    ("unable to open", StoreError, "Check the path; a missing ledger is restored from a backup, never recreated."),
    ("full", StoreError, "Free some space and repeat the command; nothing was committed."),
)


@contextmanager
def disk_errors(operation: str, file: Path | str) -> Iterator[None]:
    """Raise an `OSError` of the block as `StoreReadOnly` (no permission) or `StoreError`, naming operation and file."""
    try:
        yield
    except OSError as error:
        denied = error.errno in DENIED
        advice = DENIED_ADVICE if denied else "Check the disk and repeat the command."
        kind = StoreReadOnly if denied else StoreError
        raise kind(f"{operation} {file}: {error.strerror or error}. {advice}") from error


@contextmanager
def sqlite_errors(operation: str, file: Path | str) -> Iterator[None]:
    """Raise an `sqlite3.Error` of the block as the `StoreError` it stands for, naming operation and file.

    Text that is not Unicode is a `RequestError` on its way in and `StoreCorrupt` on its way out.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise RequestError(f"{operation} {file}: {error.object[:80]!r} is not valid Unicode. Correct it.") from error
    except UnicodeDecodeError as error:
        raise StoreCorrupt(f"{operation} {file}: {error}. Restore the ledger from a backup.") from error
    except sqlite3.Error as error:
        said = str(error).lower()
        default = (StoreError, "Check the disk and reopen the store.")
        kind, advice = next(((kind, advice) for text, kind, advice in SQLITE_FAULTS if text in said), default)
        if kind is StoreReadOnly and operation in READING:
            kind, advice = StoreError, INTERRUPTED_COMMIT
        if kind is StoreError and operation == "writing" and "unable to open" in said:  # the journal, not the ledger
            advice = default[1]
        raise kind(f"{operation} {file}: {error}. {advice}") from error
