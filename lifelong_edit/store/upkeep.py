"""Garbage collection: list and remove the files that no ledger entry needs, and those in the cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.store.ledger import Entry
from lifelong_edit.store.objects import ObjectStore, disk_errors, is_digest
from lifelong_edit.store.store import Store, StoreLayout

TEMPORARY = r"\.[0-9a-f]{16}\.tmp"
OWN_NAME = re.compile(rf"[0-9a-f]{{64}}\.(safetensors|partial)({TEMPORARY})?")
OWN_CACHE_NAME = re.compile(rf".+{TEMPORARY}(-journal)?")  # what is finished there is a cache, not a stray


@dataclass(frozen=True)
class Stray:
    """A file that no entry needs; `size` is in bytes."""

    path: Path
    size: int


def named_records(entries: Iterable[Entry]) -> dict[str, int]:
    """The digests of the entries' records, each with the seq of the first entry that names it."""
    named: dict[str, int] = {}
    for entry in entries:
        if entry.record is not None:
            named.setdefault(entry.record, entry.seq)
    return named


def named_statistics(entries: Iterable[Entry]) -> dict[str, int]:
    """The digests of the second moments and sensitivities of a store, each with the seq of the entry that names it."""
    named: dict[str, int] = {}
    for entry in entries:
        if entry.kind == "init":
            for pinned in (entry.body.get("statistics", {}), entry.body.get("sensitivity", {})):
                if not isinstance(pinned, dict) or not all(map(is_digest, pinned.values())):
                    raise StoreCorrupt(f"entry {entry.seq} does not name its statistics by digest. Restore a backup.")
                for digest in pinned.values():
                    named.setdefault(digest, entry.seq)
    return named


def own_files(layout: StoreLayout) -> list[Path]:
    """Every object, second moment and temporary file whose name is one the store gives; others are never touched."""
    named = ((layout.objects, OWN_NAME), (layout.statistics, OWN_NAME), (layout.cache, OWN_CACHE_NAME))
    return [path for folder, own in named for path in _files(folder) if own.fullmatch(path.name)]


def strays(layout: StoreLayout, files: Iterable[Path], entries: Sequence[Entry]) -> tuple[Stray, ...]:
    """Those of `files` that are temporary, unfinished or named by no entry.

    List the files before the entries are read, or a commit in between looks like a stray. Statistics of a store
    without an entry are no strays: its creation was interrupted and will go on from them.
    """
    objects, statistics = ObjectStore(layout.objects), ObjectStore(layout.statistics)
    named = {objects.path(digest) for digest in named_records(entries)}
    named |= {statistics.path(digest) for digest in named_statistics(entries)}
    unnamed = [path for path in files if path not in named]
    return _sized(path for path in unnamed if entries or not path.name.endswith((".safetensors", ".partial")))


def list_strays(store: Store) -> tuple[Stray, ...]:
    """What `collect_garbage` would remove. Beside a live writer, what it is about to commit is among them."""
    files = own_files(store.layout)
    return strays(store.layout, files, store.ledger.entries())


def collect_garbage(store: Store) -> tuple[Stray, ...]:
    """Remove what crashes and interrupted commits left, and return the removed files.

    Needs a store open for writing: under its lock nobody else is about to commit. What the ledger names
    stays; a damaged ledger is `StoreCorrupt`, and nothing is removed. An interrupted call is just repeated.
    """
    store.check_writable()
    return _removed(list_strays(store))


def list_cache(store: Store) -> tuple[Stray, ...]:
    """What `clear_cache` would remove."""
    return _sized(_files(store.layout.cache))


def clear_cache(store: Store) -> tuple[Stray, ...]:
    """Remove every file in cache/, all of which can be computed again; needs a store open for writing."""
    store.check_writable()
    return _removed(list_cache(store))


def _files(folder: Path) -> Iterator[Path]:
    """The files below `folder`, sorted; no symbolic link to a folder is followed, nor is `folder` itself one."""
    if folder.is_symlink():
        return
    for place, inner, names in os.walk(folder):
        inner.sort()
        yield from (Path(place, name) for name in sorted(names))


def _sized(paths: Iterable[Path]) -> tuple[Stray, ...]:
    found = []
    for path in paths:
        with disk_errors("reading", path):
            try:
                found.append(Stray(path, path.lstat().st_size))
            except FileNotFoundError:  # a writer has just finished with it
                continue
    return tuple(found)


def _removed(found: tuple[Stray, ...]) -> tuple[Stray, ...]:
    for stray in found:
        with disk_errors("removing", stray.path):
            stray.path.unlink(missing_ok=True)
    return found
