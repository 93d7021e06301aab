"""The operations that are interrupted: what each starts from, what it leaves, and how it is asked for again."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from lifelong_edit.store.schema import FORMAT_1
from tests.reliability.audit import check, strays
from tests.reliability.driver import STREAM, Job
from tests.reliability.syscalls import Driver


@dataclass(frozen=True)
class Scene:
    """One operation on a store of `before` entries, of which it makes `after`."""

    operation: str
    before: int
    after: int

    def stage(self, prepared: Path, folder: Path, seed: int = 0) -> Job:
        """The operation on a copy of `prepared` in `folder`; for `init` there is nothing yet."""
        root = folder / "store"
        if self.before:
            shutil.copytree(prepared, root)
        if self.operation in SETTINGS:
            SETTINGS[self.operation](root)
        return Job(str(root), self.operation, seed)

    def check(self, root: Path, acknowledged: Sequence[str] = ()) -> int:
        """How many entries there are; `Unsound` when an interrupted operation cannot have left the store so."""
        return len(check(root, self.before, self.after, acknowledged))

    def redo(self, driver: Driver, job: Job) -> None:
        """Ask again: the operation is complete then, once. A store that holds its first entry is not made again."""
        made = self.operation == "init" and self.check(Path(job.root)) == self.after
        outcome = driver.run(job)
        if made:
            assert outcome.status == 5 and "already" in outcome.error, outcome
        else:
            assert outcome.status == 0, outcome
        check(Path(job.root), self.after, self.after, outcome.acknowledged)
        assert self.operation != "gc" or not strays(Path(job.root))

    def verify(self, driver: Driver, job: Job) -> None:
        """Hear what the product itself finds in the store."""
        outcome = driver.run(replace(job, operation="verify"))
        assert outcome.status == 0 and (self.operation != "gc" or outcome.reports == [["strays", "0"]]), outcome


def leave_strays(root: Path) -> None:
    """What killed writers leave: a record without an entry, an unfinished one, and unfinished statistics."""
    for path in (
        root / "objects" / "aa" / f"{'a' * 64}.safetensors",
        root / "objects" / "bb" / f"{'b' * 64}.safetensors.0123456789abcdef.tmp",
        root / "statistics" / "cc" / f"{'c' * 64}.partial.0123456789abcdef.tmp",
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left behind")


def make_older(root: Path) -> None:
    """Make the ledger one of format 1, with the same entries."""
    with closing(sqlite3.connect(root / "ledger.db")) as db:
        entries = db.execute("SELECT seq, digest, prev, body FROM entries ORDER BY seq").fetchall()
        requests = db.execute("SELECT id, seq, content FROM requests ORDER BY seq").fetchall()
    (root / "ledger.db").unlink()
    with closing(sqlite3.connect(root / "ledger.db", isolation_level=None)) as db:
        db.executescript(FORMAT_1)
        for entry in entries:
            db.execute("INSERT INTO entries (seq, digest, prev, body) VALUES (?, ?, ?, ?)", entry)
            db.executemany("INSERT INTO requests VALUES (?, ?, ?)", [row for row in requests if row[1] == entry[0]])


SETTINGS = {"gc": leave_strays, "upgrade": make_older}
INIT, APPLY, REVERT = Scene("init", 0, 1), Scene("apply", 3, 4), Scene("revert", 3, 4)
STREAM_OF = Scene("stream", 3, 3 + STREAM)
GC, UPGRADE = Scene("gc", 3, 3), Scene("upgrade", 3, 3)
SCENES = (INIT, APPLY, REVERT, STREAM_OF, GC, UPGRADE)
