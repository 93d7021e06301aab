"""A disk that is really full: everything before is whole, and once there is room the same request succeeds."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.reliability.audit import audit, check, strays
from tests.reliability.driver import Job
from tests.reliability.mounts import resize, small_disk
from tests.reliability.syscalls import Driver

pytestmark = pytest.mark.reliability


def test_edits_until_the_disk_is_full(driver: Driver, scratch: Path) -> None:
    disk = scratch / "small"
    with small_disk(disk, "512k"):
        job = Job(str(disk / "store"), "apply")
        root = Path(job.root)
        assert driver.run(replace(job, operation="prepare")).status == 0
        for seed in count():
            outcome = driver.run(replace(job, seed=seed))
            if outcome.status:
                break
        assert outcome.status == 5 and "StoreError writing" in outcome.error, outcome
        assert "full" in outcome.error or "No space left" in outcome.error, outcome
        kept = len(check(root, 3 + seed, 3 + seed))
        assert seed >= 10

        resize(disk, "1m")
        outcome = driver.run(replace(job, seed=seed))
        assert outcome.status == 0 and len(outcome.acknowledged) == 1, outcome
        check(root, kept + 1, kept + 1, outcome.acknowledged)
        assert driver.run(replace(job, operation="gc")).status == 0
        assert driver.run(replace(job, operation="verify")).reports == [["strays", "0"]]
        assert not strays(root) and len(audit(root)) == kept + 1
    print(f"\nfull after {seed} edits: {kept} of {kept} entries whole, the same edit succeeds with more room")
