"""Killed at any system call, in any operation and in the recovery from it, the store is whole and the retry exact."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.reliability.conftest import Crew
from tests.reliability.driver import Job
from tests.reliability.scenes import APPLY, SCENES, Scene
from tests.reliability.syscalls import MUTATING, Driver, Fault, faults, killed, require_strace

pytestmark = pytest.mark.reliability
HARMLESS = set("access close fcntl flock getcwd getdents64 ioctl lseek pread64 read readlink".split())
HARMLESS |= set("fstat lstat newfstatat stat statx".split())
REPORTS = {"writev"}


@pytest.fixture(autouse=True)
def strace() -> None:
    require_strace()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.operation)
def test_no_other_call_changes_a_file(scene: Scene, driver: Driver, prepared: Path, scratch: Path) -> None:
    outcome = driver.run(scene.stage(prepared, scratch), ["-e", "trace=%file,%desc"], scratch / "log")
    assert outcome.status == 0, outcome
    calls = re.findall(r"^(\w+)\((.*)\) += ", outcome.trace, re.MULTILINE)
    assert {name for name, _ in calls} - {"mmap"} <= {*MUTATING, *HARMLESS, *REPORTS}
    assert not [arguments for name, arguments in calls if name == "mmap" and "MAP_SHARED" in arguments]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.operation)
def test_a_kill_at_every_call(scene: Scene, crew: Crew, driver: Driver, prepared: Path, scratch: Path) -> None:
    (scratch / "whole").mkdir()
    points = faults(driver, scene.stage(prepared, scratch / "whole"), scratch / "log")

    def kill(driver: Driver, folder: Path, point: Fault) -> int:
        job = scene.stage(prepared, folder)
        outcome = killed(driver, job, point, folder / "log")
        assert outcome.killed, (point, outcome)
        done = scene.check(Path(job.root), outcome.acknowledged) - scene.before
        scene.redo(driver, job)
        scene.verify(driver, job)
        return done

    ends = crew.map(kill, points)
    assert len(ends) == len(points) >= 6
    found = ", ".join(f"{times} with {done} of its commits" for done, times in sorted(Counter(ends).items()))
    print(f"\n{scene.operation}: killed at {len(ends)} of {len(points)} calls, left {found}; 0 bad")


def test_the_kill_after_the_last_call_never_comes(driver: Driver, prepared: Path, scratch: Path) -> None:
    (scratch / "whole").mkdir()
    points = faults(driver, APPLY.stage(prepared, scratch / "whole"), scratch / "log")
    last = {point.name: point.nth for point in points if point.name != "openat"}
    for name, nth in last.items():
        (scratch / name).mkdir()
        job = APPLY.stage(prepared, scratch / name)
        assert killed(driver, job, Fault(name, nth + 1), scratch / "log").status == 0
        assert APPLY.check(Path(job.root)) == APPLY.after


def test_a_kill_at_every_call_of_the_recovery(crew: Crew, driver: Driver, prepared: Path, scratch: Path) -> None:
    hot = _hot_stores(crew, driver, prepared, scratch)

    def kill_all(driver: Driver, folder: Path, store: Path) -> int:
        shutil.copytree(store, folder / "whole" / "store")
        points = faults(driver, Job(str(folder / "whole" / "store"), "recover"), folder / "log")
        for point in points:
            job = APPLY.stage(store, folder / f"{point.name}-{point.nth}")
            outcome = killed(driver, Job(job.root, "recover"), point, folder / "log")
            assert outcome.killed, (store, point, outcome)
            APPLY.check(Path(job.root))
            APPLY.redo(driver, job)
        return len(points)

    counts = crew.map(kill_all, hot)
    print(f"\nrecovery: {len(hot)} hot journals, killed at {sum(counts)} of {sum(counts)} calls of it; 0 bad")
    assert len(hot) >= 10 and sum(counts) >= 40


def _hot_stores(crew: Crew, driver: Driver, prepared: Path, scratch: Path) -> list[Path]:
    """Every state of a killed commit that leaves SQLite's journal behind."""
    (scratch / "hot").mkdir()
    points = faults(driver, APPLY.stage(prepared, scratch / "hot"), scratch / "log")

    def kill(driver: Driver, folder: Path, point: Fault) -> Path:
        job = APPLY.stage(prepared, folder)
        assert killed(driver, job, point, folder / "log").killed
        return Path(shutil.move(job.root, scratch / "hot" / f"{point.name}-{point.nth}"))

    return [root for root in crew.map(kill, points) if (root / "ledger.db-journal").exists()]
