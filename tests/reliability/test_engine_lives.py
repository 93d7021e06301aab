"""A life of streams, refits, reverts, replacements and restores that is killed anywhere ends as one that never was."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.store import Store, inspect
from tests.reliability.conftest import Crew
from tests.reliability.driver import Job
from tests.reliability.life_driver import model, write_sources
from tests.reliability.syscalls import Driver, Fault, faults, killed, require_strace

pytestmark = pytest.mark.reliability
PROGRAM = "tests.reliability.life_driver"
LIVES, KILLS = 44, 60  # lives of which each is killed once or twice, and how many kills there are to be


def staged(founded: Path, folder: Path) -> Job:
    """The life, on a copy of the store in `folder`."""
    shutil.copytree(founded, folder / "store")
    write_sources(folder)
    return Job(str(folder / "store"), "live")


def bodies_of(job: Job) -> list[dict[str, Any]]:
    """The bodies, but for the time, of a store in which nothing is wrong; a commit cut short is taken back first."""
    with Store.open(Path(job.root)) as store:
        inspect(store).require_sound()
        return [{k: v for k, v in entry.body.items() if k not in ("time", "prev")} for entry in store.ledger.entries()]


def test_killed_anywhere_a_life_ends_as_one_that_was_not(crew: Crew, driver: Driver, scratch: Path, seed: int) -> None:
    require_strace()
    (scratch / "founded").mkdir()
    assert driver.run(Job(str(scratch / "founded" / "store"), "found")).status == 0
    (scratch / "whole").mkdir()
    whole = staged(scratch / "founded" / "store", scratch / "whole")
    points, rng = faults(driver, whole, scratch / "log"), Random(seed)
    straight = bodies_of(whole)
    kinds = Counter(body["kind"] for body in straight)
    assert {"edit", "relax", "revert", "replace", "restore"} <= kinds.keys() and kinds["relax"] > 1
    with LifelongEditor.open(Path(whole.root), model(), read_only=True) as editor:
        editor.verify(replay=True).check()

    def kill(driver: Driver, folder: Path, twice: tuple[Fault, Fault]) -> tuple[int, int]:
        """How many kills there were, and how many entries the first left."""
        job = staged(scratch / "founded" / "store", folder)
        outcomes = [killed(driver, job, twice[0], folder / "log")]
        assert outcomes[0].killed, (twice, outcomes)
        left = len(bodies_of(job))
        outcomes += [killed(driver, job, twice[1], folder / "log"), driver.run(job)]
        assert outcomes[1].killed or outcomes[1].status == 0, (twice, outcomes)
        assert outcomes[2].status == 0, outcomes[2]
        assert bodies_of(job) == straight
        # What was said to be committed was, once: a digest is acknowledged by one of the processes at most.
        heard = Counter(digest for outcome in outcomes for digest in outcome.acknowledged)
        with Store.open(Path(job.root), read_only=True) as store:
            assert set(heard.values()) <= {1} and heard.keys() <= {e.digest for e in store.ledger.entries()}
        return sum(outcome.killed for outcome in outcomes), left

    sample = rng.sample(points, LIVES)
    found = crew.map(kill, [(point, rng.choice(points[: len(points) // 2])) for point in sample])
    kills = sum(number for number, _ in found)
    assert kills >= KILLS and len({left for _, left in found}) > len(straight) // 2
    print(f"\n{len(points)} calls, {dict(kinds)}: {kills} kills in {LIVES} lives, which all ended alike")
