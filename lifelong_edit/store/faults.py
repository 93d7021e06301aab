"""Turn errors of the operating system and of SQLite into this package's, which say what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lifelong_edit.errors import RequestError, StoreBusy, StoreCorrupt, StoreError, StoreReadOnly

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
