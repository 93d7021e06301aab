"""Stores for the tests: an old one, a new one with every kind of entry, and ways to hurt them."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lifelong_edit.store import GENESIS, Entry, KernelPart, KernelRecord, ObjectStore, Store

FORMAT_1 = Path(__file__).parents[1] / "data" / "format-1" / "store"
COMMON = {"time": "2026-01-01T00:00:00Z", "actor": "test", "reason": None, "versions": {"numpy": "2"}, "seed": 0}
CONTENT = "c" * 64
WEIGHT = "model.layers.2.mlp.down_proj.weight"

DIE_IN_A_COMMIT = """
import os, pathlib, signal, sys
from lifelong_edit.store import Ledger

class Deadly(dict):
    def items(self):
        os.kill(os.getpid(), signal.SIGKILL)

ledger = Ledger.open(pathlib.Path(sys.argv[1]))
ledger.db.execute("PRAGMA cache_size = 1")  # pages reach the file before the commit
body = {"time": "2026-01-01T00:00:00Z", "filler": "x" * 200_000}
ledger.append("measure", body, Deadly(never="c" * 64), ledger.head().digest)
"""


def old_store(root: Path) -> Path:
    """A copy of the store that was made by format 1."""
    return shutil.copytree(FORMAT_1, root)


def contents(root: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Every name below `root` with its mode, time of change and bytes."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [root, *root.rglob("*")]
    }


def record_of(*ids: str, keys: bool = True) -> KernelRecord:
    """A record of these facts in one weight of shape [3, 4]; the same ids give the same record."""
    rng, n = np.random.default_rng(sum(map(ord, "".join(ids)))), len(ids)
    shapes = {"left": (3, n), "right": (4, n)}
    if keys:
        shapes |= {"keys": (4, n), "whitened": (4, n), "base_residuals": (3, n), "ridge": (n,)}
    return KernelRecord(ids, {WEIGHT: KernelPart(**{name: rng.normal(size=shape) for name, shape in shapes.items()})})


def fact(id: str) -> dict[str, Any]:
    request = {"id": id, "prompt": "{} lives in", "subject": "Ada", "target_new": "Tarsis"}
    return {"id": id, "slot": f"slot-{id}", "request": request}


def commit(store: Store, kind: str, record: KernelRecord | None = None, **body: Any) -> Entry:
    """One more entry at the store's head; the facts of an edit are also its requests."""
    head = store.ledger.head()
    requests = {f["id"]: CONTENT for f in body.get("facts", ()) if isinstance(f, dict)}
    data = None if record is None else record.to_bytes()
    return store.commit(kind, {**COMMON, **body}, data, requests, head.digest if head else GENESIS)


def fill(store: Store) -> None:
    """Entries 0 to 7: init, two edits of which the second supersedes a fact, and what else can happen to them."""
    moment = ObjectStore(store.layout.statistics).put(b"a second moment")
    commit(store, "init", statistics={"2": moment})
    commit(store, "edit", record_of("a", "b"), facts=[fact("a"), fact("b")])
    commit(store, "edit", record_of("c"), facts=[fact("c")], columns=[["c"]], superseded=["a"], method="memit")
    commit(store, "revert", record_of("c", keys=False), facts=["c"], restored=["a"])
    commit(store, "restore", record_of("c", "a", keys=False), facts=["c"], superseded=["a"])
    commit(store, "tag", tag="release", target=2)
    figures = [{"cohort": 1, "metric": "efficacy", "value": 0.5, "facts": 2}]
    drift = [{"metric": "perplexity", "value": 3.5, "base": None, "low": None, "high": None}]
    commit(store, "measure", retention=figures, drift=drift)
    commit(store, "revert", record_of("b", keys=False), facts=["b"])


def tampered(ledger: Path, *statements: str) -> None:
    """Change the ledger's file as someone would who takes the triggers away first and puts them back afterwards."""
    connection = sqlite3.connect(ledger, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in [*statements, *(sql for _, sql in triggers)]:
        connection.execute(statement)
    connection.close()


def rewritten(ledger: Path, entries: list[Entry]) -> None:
    """Give the ledger other entries, with a chain that holds."""
    tampered(ledger, "DELETE FROM requests", "DELETE FROM entries")
    connection = sqlite3.connect(ledger, isolation_level=None)
    head = None
    for entry in entries:
        head = Entry.after(head, entry.body)
        row = (head.seq, head.digest, head.prev, head.text)
        connection.execute("INSERT INTO entries (seq, digest, prev, body) VALUES (?, ?, ?, ?)", row)
        for id, content in entry.body["requests"].items():
            connection.execute("INSERT INTO requests (id, seq, content) VALUES (?, ?, ?)", (id, head.seq, content))
    connection.close()


def leave_a_hot_journal(ledger: Path) -> None:
    """Let a process die in the middle of a commit, when part of it stands in the ledger's file already."""
    before = ledger.read_bytes()
    process = subprocess.run([sys.executable, "-c", DIE_IN_A_COMMIT, str(ledger)], check=False)
    journal = ledger.with_name(f"{ledger.name}-journal")
    assert process.returncode == -9 and journal.stat().st_size > 512 and ledger.read_bytes() != before
