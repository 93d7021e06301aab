"""What befalls a file: rotten bits, torn writes, and a hand that knows SQL."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

SECTOR = 512
Rows = list[tuple[object, ...]]
ENTRIES = "SELECT seq, digest, prev, body FROM entries NOT INDEXED ORDER BY seq"
REQUESTS = "SELECT id, seq, content FROM requests NOT INDEXED ORDER BY rowid"


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit turned over."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes after one accident: a flipped bit, a burst, a lost sector, two exchanged, a cut or an added tail."""
    at = rng.randrange(len(data))
    low, high = sorted(rng.sample(range(len(data) // SECTOR), 2))
    first, last = (slice(n * SECTOR, (n + 1) * SECTOR) for n in (low, high))
    changed = bytearray(data)
    match rng.randrange(6):
        case 0:
            return flipped(data, rng.randrange(8 * len(data)))
        case 1:
            burst = rng.randbytes(rng.randint(1, 64))
            changed[at : at + len(burst)] = burst
        case 2:
            changed[first] = bytes(SECTOR)
        case 3:
            changed[first], changed[last] = changed[last], changed[first]
        case 4:
            del changed[at:]
        case _:
            changed += rng.randbytes(rng.randint(1, SECTOR))
    return bytes(changed)


def raw_rows(path: Path) -> tuple[Rows | None, Rows | None]:
    """Entries and request ids as plain SQLite reads them, texts as bytes; None where it cannot."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        connection.text_factory = bytes
        return _rows(connection, ENTRIES), _rows(connection, REQUESTS)


def _rows(connection: sqlite3.Connection, query: str) -> Rows | None:
    try:
        return connection.execute(query).fetchall()
    except (sqlite3.Error, UnicodeDecodeError):  # the message of an error may quote a damaged schema
        return None


@contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    """A foreign connection on which no trigger and no check stands in the way; triggers that still can be come back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        triggers = connection.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA synchronous = OFF")
        for name, *_ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for _, table, sql in triggers:
            if table in tables:
                connection.execute(sql)
