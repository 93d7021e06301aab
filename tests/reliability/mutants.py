"""Wrong versions of the product, by patching, for good: put in place inside a process that is about to end.

Six are wrong commit protocols; they show that the simulation of power loss would notice.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lifelong_edit.store import Entry, Ledger, Store, store
from lifelong_edit.store.ledger import Database


def no_file_fsync() -> None:
    _skip_fsync(stat.S_ISREG)


def no_folder_fsync() -> None:
    _skip_fsync(stat.S_ISDIR)


def synchronous_off() -> None:
    _set_pragmas("PRAGMA synchronous = OFF")


def wal_normal() -> None:
    _set_pragmas("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL")


def ledger_before_object() -> None:
    def commit(
        self: Store, kind: str, body: Mapping[str, Any], record: bytes, requests: Mapping[str, str], expected_head: str
    ) -> Entry:
        body = {**body, "record": hashlib.sha256(record).hexdigest()}
        entry = self.ledger.append(kind, body, requests, expected_head)
        self.objects.put(record)
        return entry

    Store.commit = commit


def two_transactions() -> None:
    execute = Database.execute

    def split(self: Database, sql: str, parameters: Iterable[Any] | None = None) -> Any:
        if sql.startswith("INSERT INTO requests"):
            execute(self, "COMMIT")
            execute(self, "BEGIN IMMEDIATE")
        return execute(self, sql, parameters)

    Database.execute = split


def no_lock() -> None:
    """Any number of writers at a time."""

    class NoLock:
        held = True

        def __init__(self, _path: object) -> None: ...
        def close(self) -> None: ...
        def __enter__(self) -> NoLock:
            return self

        def __exit__(self, *_error: object) -> None: ...

    store.WriterLock = NoLock


def no_refusal() -> None:
    """A store that takes the next commit after one that failed."""
    Store.check_writable = lambda _self: None


PROTOCOLS = (no_file_fsync, no_folder_fsync, synchronous_off, ledger_before_object, two_transactions, wal_normal)
MUTANTS: Mapping[str, Callable[[], None]] = {mutant.__name__: mutant for mutant in (*PROTOCOLS, no_lock, no_refusal)}


def _skip_fsync(skipped: Callable[[int], bool]) -> None:
    real = os.fsync
    os.fsync = lambda fd: None if skipped(os.fstat(fd).st_mode) else real(fd)


def _set_pragmas(*pragmas: str) -> None:
    def set_pragmas(self: Ledger) -> None:
        for pragma in pragmas:
            self.db.execute(pragma).fetchall()

    Ledger._set_durable = set_pragmas
