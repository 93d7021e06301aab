"""An I/O error or a full disk, in any call, once or from there on: said in words, and nothing is lost or half done."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from tests.reliability.conftest import Crew
from tests.reliability.driver import CONTINUED
from tests.reliability.scenes import APPLY, GC, INIT, REVERT, UPGRADE, Scene
from tests.reliability.syscalls import Driver, Fault, failing, faults, require_strace

pytestmark = pytest.mark.reliability
MODES = list(product(("ENOSPC", "EIO"), (False, True)))  # which error; once, or from there on
SYNC_OR_WRITE = re.compile(r"^(fsync|fdatasync|pwrite64|write|ftruncate)\(\d+<(.*?)>.* = (-?\d+)", re.MULTILINE)
# SQLite goes on without a word when it cannot give its new journal the ledger's owner, nor bring its name to the disk.
IGNORED = r"fchown\(\d+<{root}/ledger\.db-journal>|fdatasync\(\d+<{root}>"


@pytest.mark.parametrize("scene", [INIT, APPLY, REVERT, GC, UPGRADE], ids=lambda scene: scene.operation)
def test_an_error_at_every_call(scene: Scene, crew: Crew, driver: Driver, prepared: Path, scratch: Path) -> None:
    require_strace()
    (scratch / "whole").mkdir()
    points = faults(driver, scene.stage(prepared, scratch / "whole"), scratch / "log")

    def fail(driver: Driver, folder: Path, fault: tuple[Fault, tuple[str, bool]]) -> tuple[str, int]:
        (point, (error, onwards)), job = fault, scene.stage(prepared, folder)
        outcome = failing(driver, job, point, error, onwards, folder / "log")
        assert outcome.injected, fault
        done = scene.check(Path(job.root), outcome.acknowledged) - scene.before
        if outcome.status == 0:
            assert all(re.match(IGNORED.format(root=job.root), line) for line in outcome.injected), (fault, outcome)
        else:
            assert outcome.status == 5, (fault, outcome)
            assert re.match(rf"StoreError \w+ing {job.root}", outcome.error), (fault, outcome)
            assert not (done and "nothing was committed" in outcome.error), (fault, outcome)
        assert set(retried_syncs(outcome.trace)) <= {job.root}, fault  # the folder: see IGNORED
        scene.redo(driver, job)
        return ("ignored" if outcome.status == 0 else "reported"), done

    ends = crew.map(fail, list(product(points, MODES)))
    assert len(ends) == len(points) * len(MODES)
    found = ", ".join(
        f"{times} {end} with {done} of its commits" for (end, done), times in sorted(Counter(ends).items())
    )
    print(f"\n{scene.operation}: {len(ends)} errors at {len(points)} calls, {found}; 0 bad")


def test_a_store_that_works_on_after_an_error_is_noticed(driver: Driver, prepared: Path, scratch: Path) -> None:
    require_strace()
    for mutant, status in ((None, 5), ("no_refusal", CONTINUED)):
        (scratch / str(mutant)).mkdir()
        job = replace(APPLY.stage(prepared, scratch / str(mutant)), mutant=mutant)
        assert failing(driver, job, Fault("renameat", 1), "EIO", False, scratch / "log").status == status


def retried_syncs(trace: str) -> list[str]:
    """Files that were synced again after that had failed, and not written in between: what was dropped is lost."""
    failed: set[str] = set()
    retried = []
    for name, file, result in SYNC_OR_WRITE.findall(trace):
        if "sync" not in name:
            failed.discard(file)
        elif file in failed:
            retried.append(file)
        elif result == "-1":
            failed.add(file)
    return retried


def test_a_retried_sync_is_noticed() -> None:
    lines = ["fsync(3</a>) = -1 EIO (Input/output error) (INJECTED)", "fdatasync(3</a>)   = 0"]
    assert retried_syncs("\n".join(lines)) == ["/a"]
    assert retried_syncs("\n".join([lines[0], 'pwrite64(3</a>, "x"..., 1, 0) = 1', lines[1]])) == []
    assert retried_syncs("\n".join(lines[:1])) == retried_syncs(lines[1]) == []
