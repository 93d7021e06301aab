"""Back up or clone a store while it is in use."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lifelong_edit.errors import StoreCorrupt, StoreError
from lifelong_edit.store.ledger import GENESIS, Entry, Ledger
from lifelong_edit.store.objects import ObjectStore, adopt_file, disk_errors, sqlite_errors
from lifelong_edit.store.store import Store, StoreLayout, WriterLock, sync_folder
from lifelong_edit.store.upkeep import named_records, named_statistics


@dataclass(frozen=True)
class Copied:
    """A finished copy: the digest of its head, its number of entries, and how many objects and bytes were copied."""

    head: str
    entries: int
    objects: int
    bytes: int


def backup(source_root: Path, destination: Path) -> Copied:
    """Bring the store in `destination` to the present state of the one in `source_root`, which may be in use.

    `destination` is a new or empty folder, or an earlier backup, of which only what is missing or damaged is written.
    Its ledger comes last and at once, so an interrupted backup leaves the earlier one, and is just repeated. Raises
    `StoreError` when the destination has a history of its own, `StoreBusy` when it is in use, `StoreCorrupt` when
    the source lacks something its ledger names.
    """
    with _opened(source_root, destination) as (source, layout):
        return _copy(source, layout, _entries_in(layout.ledger))


def clone(source_root: Path, destination: Path) -> Copied:
    """A store of its own in a new or empty folder, with the history the one in `source_root` has now.

    An interrupted clone is just repeated. Raises as `backup` does, and `StoreError` when there is a store already.
    """
    with _opened(source_root, destination) as (source, layout):
        _check_new(layout)
        return _copy(source, layout, [])


def preview_copy(source_root: Path, destination: Path, anew: bool) -> Copied:
    """Do the checks of `clone` (`anew`) or `backup` and return what it would copy; nothing is written."""
    _check_apart(source_root, destination)
    layout = StoreLayout(destination)
    with Store.open(source_root, read_only=True) as source, disk_errors("reading", destination):
        entries = source.ledger.entries()
        if anew:
            _check_new(layout)
        if layout.ledger.exists():
            with Store.open(destination, read_only=True) as earlier:
                _check_continues(entries, earlier.ledger.entries(), layout)
        sizes = [
            own.path(digest).stat().st_size
            for own, target, named in _objects_of(source, layout, entries)
            for digest in named
            if not _holds(target, digest)
        ]
    return Copied(entries[-1].digest if entries else GENESIS, len(entries), len(sizes), sum(sizes))


@contextmanager
def _opened(source_root: Path, destination: Path) -> Iterator[tuple[Store, StoreLayout]]:
    """The source, open for reading, and the destination with its folders made and its writer's lock held."""
    with Store.open(source_root, read_only=True) as source:
        _check_apart(source_root, destination)
        layout = StoreLayout(destination)
        layout.create()
        with WriterLock(layout.lock):
            yield source, layout


def _entries_in(ledger: Path) -> list[Entry]:
    """The entries of an earlier backup; opened as a writer does, so that none of its journals outlives it."""
    if not ledger.exists():
        return []
    with Ledger.open(ledger) as earlier:
        return earlier.entries()


def _copy(source: Store, layout: StoreLayout, earlier: Sequence[Entry]) -> Copied:
    """Copy the ledger aside, then the objects, then move the ledger into place, so that all it names is durable."""
    finished = layout.cache / f"{layout.ledger.name}.{secrets.token_hex(8)}.tmp"
    try:
        with source.ledger.snapshot():
            entries = source.ledger.entries()
            _check_continues(entries, earlier, layout)
            _copy_ledger(source.ledger, finished)
        sizes = [size for kind in _objects_of(source, layout, entries) for size in _copy_objects(*kind)]
        adopt_file(finished, layout.ledger)
    finally:
        with suppress(OSError):
            finished.unlink(missing_ok=True)
    return Copied(entries[-1].digest if entries else GENESIS, len(entries), len(sizes), sum(sizes))


def _objects_of(
    source: Store, layout: StoreLayout, entries: Sequence[Entry]
) -> tuple[tuple[ObjectStore, ObjectStore, Mapping[str, int]], ...]:
    """For records and for second moments: source, target, and the digests to copy with the seq that names each."""
    return (
        (source.objects, ObjectStore(layout.objects), named_records(entries)),
        (ObjectStore(source.layout.statistics), ObjectStore(layout.statistics), named_statistics(entries)),
    )


def _check_apart(source_root: Path, destination: Path) -> None:
    target = destination.resolve()
    if source_root.resolve() in (target, *target.parents):
        raise StoreError(f"{destination} lies in the store that is to be copied. Choose a folder outside of it.")


def _check_new(layout: StoreLayout) -> None:
    with disk_errors("reading", layout.root):
        present = layout.ledger.exists()
    if present:
        raise StoreError(f"{layout.root} holds a store already. Choose a new or an empty folder.")


def _check_continues(entries: Sequence[Entry], earlier: Sequence[Entry], layout: StoreLayout) -> None:
    if list(entries[: len(earlier)]) != list(earlier):
        raise StoreError(
            f"{layout.root} is no earlier backup of this store: its history has {len(earlier)} entries that this one "
            "does not begin with. Choose another folder."
        )


def _copy_ledger(ledger: Ledger, copy: Path) -> None:
    """SQLite's own copy of a database in use; called in a snapshot, it is of that moment."""
    with sqlite_errors("copying the ledger to", copy), closing(sqlite3.connect(copy)) as target:
        ledger.db.conn.backup(target)


def _copy_objects(source: ObjectStore, target: ObjectStore, named: Mapping[str, int]) -> list[int]:
    """Copy the objects that `target` lacks or has damaged, durably, and return the size of each in bytes."""
    sizes, kept = [], set()
    for digest, seq in named.items():
        if _holds(target, digest):
            kept |= {target.root, target.path(digest).parent}
            continue
        try:
            data = source.get(digest)
        except StoreCorrupt as error:
            raise StoreCorrupt(f"entry {seq}: {error}") from error
        target.put(data)
        sizes.append(len(data))
    for folder in sorted(kept):  # whoever put an object there may have died before its name was durable
        with disk_errors("writing", folder):
            sync_folder(folder)
    return sizes


def _holds(objects: ObjectStore, digest: str) -> bool:
    try:
        objects.get(digest)
    except StoreCorrupt:
        return False
    return True
