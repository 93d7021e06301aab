"""What must hold of a store whatever happened to it, checked without the product: sqlite3, hashlib and json alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

Body = dict[str, Any]
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where scratch files cost least


class Unsound(AssertionError):
    """An invariant of the store does not hold."""


def audit(root: Path) -> list[Body]:
    """The bodies of all entries; `Unsound` when an invariant does not hold. The store is left as it is.

    Seq is contiguous, the chain recomputes, every record is there with the bytes it is named by, request ids are
    unique and those of the bodies, and the digest of the weights is the fold of the records. A store that was not
    made yet has no entries.
    """
    if not (root / "ledger.db").is_file():
        return []
    with tempfile.TemporaryDirectory(dir=MEMORY) as copies:  # reading recovers a hot journal: the product's to do
        for path in root.glob("ledger.db*"):
            shutil.copy(path, copies)
        try:
            entries, requests = _rows(Path(copies) / "ledger.db")
        except sqlite3.Error as error:
            raise Unsound(f"the ledger cannot be read: {error}") from error
    bodies = _chain(entries)
    if sorted(requests) != sorted((id, body["seq"], c) for body in bodies for id, c in body["requests"].items()):
        raise Unsound(f"the request ids {requests} are not those of the entries")
    _fold(root / "objects", bodies)
    return bodies


def check(root: Path, fewest: int, most: int, acknowledged: Iterable[str] = ()) -> list[Body]:
    """`audit`, and: between so many entries and so many, and every acknowledged id among them."""
    bodies = audit(root)
    if not fewest <= len(bodies) <= most:
        raise Unsound(f"{len(bodies)} entries where {fewest} to {most} are possible")
    if lost := set(acknowledged) - {id for body in bodies for id in body["requests"]}:
        raise Unsound(f"acknowledged but lost: {sorted(lost)}")
    return bodies


def strays(root: Path) -> list[Path]:
    """Files of the object store that no entry names."""
    named = {f"{body.get('record')}.safetensors" for body in audit(root)}
    return sorted(path for path in (root / "objects").rglob("*") if path.is_file() and path.name not in named)


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below `root` with the time of its last change and its bytes: equal when nothing changed."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [root, *root.rglob("*")]
    }


def _rows(ledger: Path) -> tuple[list[tuple[int, str, str, str]], list[tuple[str, int, str]]]:
    with closing(sqlite3.connect(f"file:{ledger}?mode=rw", uri=True)) as db:
        if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise Unsound("SQLite finds the ledger damaged")
        if not db.execute("SELECT 1 FROM sqlite_master").fetchall():
            return [], []
        entries = db.execute("SELECT seq, digest, prev, body FROM entries ORDER BY seq").fetchall()
        return entries, db.execute("SELECT id, seq, content FROM requests").fetchall()


def _chain(entries: Iterable[tuple[int, str, str, str]]) -> list[Body]:
    bodies: list[Body] = []
    last = "0" * 64
    for place, (seq, digest, prev, text) in enumerate(entries):
        body = json.loads(text)
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        named = (seq, prev, text) == (place, last, canonical) == (body["seq"], body["prev"], canonical)
        if not named or hashlib.sha256(text.encode()).hexdigest() != digest:
            raise Unsound(f"entry {seq} does not follow the one before it")
        bodies.append(body)
        last = digest
    return bodies


def _fold(objects: Path, bodies: Iterable[Body]) -> None:
    weights = None
    for body in bodies:
        record = b""
        if digest := body.get("record"):
            path = objects / digest[:2] / f"{digest}.safetensors"
            record = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(record).hexdigest() != digest:
                raise Unsound(f"the record of entry {body['seq']} is missing or damaged")
        folded = hashlib.sha256(f"{weights}".encode() + record).hexdigest() if weights else body["weights"]
        if body["weights"] != folded:
            raise Unsound(f"the weights of entry {body['seq']} are not the fold of the records")
        weights = folded
