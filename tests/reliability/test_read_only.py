"""A store that may not be written is read in full, refuses every commit, and keeps every byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reliability.audit import audit, contents
from tests.reliability.driver import Job
from tests.reliability.mounts import read_only
from tests.reliability.scenes import APPLY, UPGRADE
from tests.reliability.syscalls import Driver, faults, killed, require_strace

pytestmark = pytest.mark.reliability
NOBODY = 65534


@pytest.fixture(params=["another user", "read-only mount"])
def foreign(request: pytest.FixtureRequest, prepared: Path, scratch: Path) -> Iterator[Job]:
    """A job on a store that whoever does it may not write."""
    if request.param == "read-only mount":
        with read_only(prepared, scratch / "seen"):
            yield Job(str(scratch / "seen"), "read")
    else:
        yield unprivileged(prepared)


def unprivileged(root: Path) -> Job:
    """As root, permissions bind nobody but another user; anybody else gives his own away."""
    if os.geteuid() == 0:
        return Job(str(root), "read", uid=NOBODY)
    for path in [*root.rglob("*"), root]:
        path.chmod(path.stat().st_mode & ~0o222)
    return Job(str(root), "read")


def test_everything_is_read_and_nothing_is_written(foreign: Job, driver: Driver, prepared: Path) -> None:
    before = contents(prepared)
    outcome = driver.run(foreign)
    read = [body.get("record") for body in audit(prepared)]
    assert outcome.status == 0 and len(read) == 3, outcome
    assert outcome.reports == [["entry", str(seq), *([digest] if digest else [])] for seq, digest in enumerate(read)]
    assert driver.run(replace(foreign, operation="verify")).reports == [["strays", "0"]]
    for operation in ("apply", "revert", "stream", "gc"):
        outcome = driver.run(replace(foreign, operation=operation))
        assert outcome.status == 5 and outcome.error.startswith("StoreReadOnly locking"), (operation, outcome)
    assert contents(prepared) == before
    print(f"\n3 of 3 entries and their records read, 4 of 4 writing commands refused, 0 of {len(before)} files changed")


def test_an_older_ledger_is_read_as_it_is(driver: Driver, prepared: Path, scratch: Path) -> None:
    (scratch / "older").mkdir()
    root = Path(UPGRADE.stage(prepared, scratch / "older").root)
    job, before = unprivileged(root), contents(root)
    assert len(driver.run(job).reports) == 3
    assert driver.run(replace(job, operation="verify")).reports == [["strays", "0"]]
    assert contents(root) == before


def test_an_interrupted_commit_is_left_to_a_writer(driver: Driver, prepared: Path, scratch: Path) -> None:
    require_strace()
    (scratch / "whole").mkdir()
    point = next(
        p for p in faults(driver, APPLY.stage(prepared, scratch / "whole"), scratch / "log") if p.name == "unlink"
    )
    (scratch / "hot").mkdir()
    hot = APPLY.stage(prepared, scratch / "hot")
    assert killed(driver, hot, point, scratch / "log").killed
    root = Path(hot.root)
    before = contents(root)
    outcome = driver.run(unprivileged(root))
    assert outcome.status == 5 and "Open the store for writing" in outcome.error, outcome
    assert contents(root) == before
