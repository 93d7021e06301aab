"""A store: the paths in its folder, the lock of its single writer, and the order in which a commit reaches the disk.

The lock only saves a second writer from wasted work. What keeps two writers from losing a commit is the ledger, which
refuses an entry that was not computed on its head.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifelong_edit.errors import StoreBusy, StoreCorrupt, StoreError, StoreReadOnly
from lifelong_edit.store.ledger import FOUNDING_MISFIT, Entry, Ledger, typed
from lifelong_edit.store.objects import ObjectStore, disk_errors

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class StoreLayout:
    """The paths of the store in the folder `root`."""

    root: Path

    @property
    def ledger(self) -> Path:
        """The SQLite file with the entries."""
        return self.root / "ledger.db"

    @property
    def lock(self) -> Path:
        """The file that a writer keeps locked."""
        return self.root / "lock"

    @property
    def objects(self) -> Path:
        """The folder of records, named by their SHA-256."""
        return self.root / "objects"

    @property
    def statistics(self) -> Path:
        """The folder of second moments of keys, named by their SHA-256; the first entry names those in use."""
        return self.root / "statistics"

    @property
    def cache(self) -> Path:
        """The folder of files that can be computed again; safe to delete at any time."""
        return self.root / "cache"

    def create(self) -> None:
        """Make the folders, durably; `StoreError` when `root` holds anything that does not belong to a store.

        It continues an interrupted `create`.
        """
        with disk_errors("creating", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            own = {path.name for path in (self.ledger, self.lock, self.objects, self.statistics, self.cache)}
            foreign = sorted(set(os.listdir(self.root)) - own - {f"{self.ledger.name}-journal"})
            if foreign:
                raise StoreError(f"{self.root} is not empty: it holds {foreign[0]!r}. Choose a new or an empty folder.")
            for folder in (self.objects, self.statistics, self.cache):
                folder.mkdir(exist_ok=True)
            for folder in (self.root, self.root.absolute().parent):
                sync_folder(folder)


class WriterLock:
    """An exclusive lock on a file, held until `close`, the end of the object or the death of the process.

    Raises `StoreBusy` at once, naming the holder's process id, when another holds it; `StoreReadOnly` or
    `StoreError` when the file cannot be written. A process that is forked from the holder does not hold it.
    """

    def __init__(self, path: Path) -> None:
        with disk_errors("locking", path):
            descriptor = os.open(path, LOCK_FLAGS, 0o666)
            self._release = weakref.finalize(self, _unlock, descriptor, os.getpid())
            try:
                _acquire(path, descriptor)
            except BaseException:
                self.close()
                raise
        _HELD.add(self)

    @property
    def held(self) -> bool:
        """Whether it was not released yet."""
        return self._release.alive

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        self._release()

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _acquire(path: Path, descriptor: int) -> None:
    """Lock the open file and write this process's id into it; `StoreBusy` when it is locked already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        if holder == str(os.getpid()):
            raise StoreBusy(f"{path}: this process is writing to the store already. Close it there.") from None
        raise StoreBusy(
            f"{path}: process {holder or 'unknown'} is writing to the store. "
            "Wait until it is done, or open the store for reading."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _unlock(descriptor: int, holder: int) -> None:
    """Release the lock of the process `holder`; a process that was forked from it only closes its descriptor.

    Closing alone would not do: a program that another thread is just starting shares the descriptor until it runs.
    """
    if os.getpid() == holder:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _close_inherited() -> None:
    """Close the descriptors that a child shares with its parent; the lock would be held until both are gone."""
    for lock in tuple(_HELD):
        lock.close()


_HELD: weakref.WeakSet[WriterLock] = weakref.WeakSet()
os.register_at_fork(after_in_child=_close_inherited)


class Store:
    """An open store; one process writes at a time, any number read. Close it, or use it as a context manager.

    Only the thread that opened it commits; every thread may read and close it.
    """

    def __init__(self, layout: StoreLayout, ledger: Ledger, lock: WriterLock | None) -> None:
        self.layout = layout
        self.ledger = ledger
        self.objects = ObjectStore(layout.objects)
        self._lock = lock
        self._closed = False
        self._thread = threading.get_ident()
        self._failure: str | None = None

    @classmethod
    def create(cls, root: Path) -> Store:
        """A new store in a new or empty folder, open for writing, without an entry yet.

        An interrupted `create` is continued. Raises `StoreError` when the folder holds anything else, `StoreBusy`
        when another process is creating it, `StoreReadOnly` without write permission.
        """
        layout = StoreLayout(root)
        layout.create()
        with ExitStack() as opened:
            lock = opened.enter_context(WriterLock(layout.lock))
            store = cls(layout, Ledger.create(layout.ledger), lock)
            opened.pop_all()
        return store

    @classmethod
    def open(cls, root: Path, read_only: bool = False) -> Store:
        """The store in `root`. A writer takes the lock; a reader neither needs it nor write permission.

        Raises `StoreError` when there is no store, `StoreBusy` when another process writes, `StoreReadOnly` for a
        writer without write permission, `StoreCorrupt` when the ledger is damaged or of a newer version.
        """
        layout = StoreLayout(root)
        with disk_errors("opening", layout.ledger):
            present = layout.ledger.is_file()
        if not present:
            raise StoreError(f"{root} holds no store: {layout.ledger.name} is missing. Check the path, or create one.")
        with ExitStack() as opened:
            lock = None if read_only else opened.enter_context(WriterLock(layout.lock))
            store = cls(layout, Ledger.open(layout.ledger, read_only), lock)
            opened.pop_all()
        return store

    @property
    def read_only(self) -> bool:
        """Whether this store was opened for reading."""
        return self._lock is None

    def check_writable(self) -> None:
        """Raise `StoreReadOnly` when opened for reading, `StoreError` when closed or after a write that failed.

        `StoreError` too in another thread than the one that opened the store, and in a process forked from it.
        """
        if self._closed:
            raise StoreError(f"{self.layout.root} was closed. Open it again.")
        if self._lock is None:
            raise StoreReadOnly(f"{self.layout.root} was opened for reading. Open it for writing to commit.")
        if not self._lock.held:
            raise StoreError(f"{self.layout.root} was opened before this process was forked. Open it again here.")
        if threading.get_ident() != self._thread:
            raise StoreError(
                f"{self.layout.root} was opened in another thread, and only that one commits. Nothing was written. "
                "Hand what is to be committed to that thread, for example by a queue."
            )
        if self._failure is not None:
            raise StoreError(
                f"{self.layout.root} takes no commit any more: what an earlier one left on the disk is unknown "
                f"({self._failure}) Open the store again and go on from its head."
            )

    def founded_entries(self) -> list[Entry]:
        """All entries, the first of which says what the store is pinned to.

        Raises `StoreError` when the store was never finished, `StoreCorrupt` when the first entry is another's.
        """
        entries = self.ledger.entries()
        if not entries:
            raise StoreError(f"The store in {self.layout.root} was never finished. Create it again in this folder.")
        if entries[0].kind != "init":
            raise StoreCorrupt("ledger entry 0 does not say what the store is pinned to. Restore a backup.")
        typed(entries[0], FOUNDING_MISFIT)
        return entries

    def commit(
        self,
        kind: str,
        body: Mapping[str, Any],
        record: bytes | None,
        requests: Mapping[str, str],
        expected_head: str,
    ) -> Entry:
        """Commit one change durably: first its record, then its ledger entry, which is the commit point.

        Raises what `ObjectStore.put` and `Ledger.append` raise; the ledger is then as before, and a record without
        an entry is harmless. A store opened for reading raises `StoreReadOnly`. A `StoreError` that is neither that
        nor `StoreBusy` is final: the disk may have dropped what it failed to write, so a second try could seem to
        succeed, and every further commit is refused until the store is opened again.
        """
        with self.ledger.alone:  # a thread that closes the store waits for the commit
            self.check_writable()
            try:
                if record is not None:
                    body = {**body, "record": self.objects.put(record)}
                return self.ledger.append(kind, body, requests, expected_head)
            except (StoreBusy, StoreReadOnly):
                raise
            except StoreError as error:
                self._failure = str(error)
                raise

    def close(self) -> None:
        """Close the ledger, then release the writer's lock; from any thread, after a commit that is under way."""
        with self.ledger.alone:
            self._closed = True
            try:
                self.ledger.close()
            finally:
                if self._lock is not None:
                    self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (fsync); `OSError` when that fails, after which a retry proves nothing."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
