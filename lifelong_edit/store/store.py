"""A store: ledger, objects and lock of one folder, and the order in which a commit reaches them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lifelong_edit.errors import StoreBusy, StoreError, StoreReadOnly
from lifelong_edit.store.faults import disk_errors
from lifelong_edit.store.layout import StoreLayout
from lifelong_edit.store.ledger import Entry, Ledger
from lifelong_edit.store.lock import WriterLock
from lifelong_edit.store.objects import ObjectStore


class Store:
    """An open store; one process writes at a time, any number read. Close it, or use it as a context manager."""

    def __init__(self, layout: StoreLayout, ledger: Ledger, lock: WriterLock | None) -> None:
        self.layout = layout
        self.ledger = ledger
        self.objects = ObjectStore(layout.objects)
        self._lock = lock
        self._closed = False
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
        """Raise `StoreReadOnly` when opened for reading, `StoreError` when closed or after a write that failed."""
        if self._closed:
            raise StoreError(f"{self.layout.root} was closed. Open it again.")
        if self.read_only:
            raise StoreReadOnly(f"{self.layout.root} was opened for reading. Open it for writing to commit.")
        if self._failure is not None:
            raise StoreError(
                f"{self.layout.root} takes no commit any more: what an earlier one left on the disk is unknown "
                f"({self._failure}) Open the store again and go on from its head."
            )

    def commit(
        self,
        kind: str,
        body: Mapping[str, Any],
        record: bytes | None,
        requests: Mapping[str, str],
        expected_head: str,
    ) -> Entry:
        """Make one change durable: the record first, then the ledger's entry, which alone makes it real.

        Raises what `ObjectStore.put` and `Ledger.append` raise; the ledger is then as before, and a record without
        an entry is harmless. A store opened for reading raises `StoreReadOnly`. A `StoreError` that is neither that
        nor `StoreBusy` is final: the disk may have dropped what it failed to write, so a second try could seem to
        succeed, and every further commit is refused until the store is opened again.
        """
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
        """Close the ledger, then let the next writer in."""
        self._closed = True
        self.ledger.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
