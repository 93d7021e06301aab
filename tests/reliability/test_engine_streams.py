"""A stream that is killed at any system call and started again makes the commits of one that never was."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.store import Entry, Store, inspect
from tests.reliability.audit import contents
from tests.reliability.conftest import Crew
from tests.reliability.driver import Job
from tests.reliability.engine_driver import BATCH, requests, write_source
from tests.reliability.engines import base_model
from tests.reliability.syscalls import Driver, Fault, faults, killed, require_strace

pytestmark = pytest.mark.reliability
PROGRAM = "tests.reliability.engine_driver"
POINTS = 20
IDS = [str(request.id) for request in requests()]


@pytest.fixture(autouse=True)
def strace() -> None:
    require_strace()


@pytest.fixture
def founded(scratch: Path, driver: Driver) -> Path:
    """A store without an edit; tests work on copies."""
    (scratch / "founded").mkdir()
    assert driver.run(Job(str(scratch / "founded" / "store"), "found")).status == 0
    return scratch / "founded" / "store"


def staged(founded: Path, folder: Path) -> Job:
    """The stream, on a copy of the store in `folder`."""
    shutil.copytree(founded, folder / "store")
    write_source(folder, requests())
    return Job(str(folder / "store"), "stream")


def entries_of(job: Job) -> list[Entry]:
    """The entries of a store in which nothing is wrong; a commit that was cut short is taken back first."""
    with Store.open(Path(job.root)) as store:
        inspect(store).require_sound()
        return store.ledger.entries()


def committed(job: Job) -> list[str]:
    return [fact["id"] for entry in entries_of(job)[1:] for fact in entry.body["facts"]]


def test_killed_anywhere_a_stream_is_made_exactly_once(
    crew: Crew, driver: Driver, founded: Path, scratch: Path, seed: int
) -> None:
    (scratch / "whole").mkdir()
    whole = staged(founded, scratch / "whole")
    points = faults(driver, whole, scratch / "log")
    sample, rng = Random(seed).sample(points, POINTS), Random(seed + 1)
    again = [rng.choice(points) for _ in sample]
    straight = entries_of(whole)
    assert committed(whole) == IDS and len(straight) > 1 + len(IDS) // BATCH

    def kill(driver: Driver, folder: Path, twice: tuple[Fault, Fault]) -> tuple[int, bool]:
        job, heard = staged(founded, folder), Counter[str]()
        outcomes = [killed(driver, job, point, folder / "log") for point in twice]
        assert outcomes[0].killed, (twice, outcomes)
        left = len(entries_of(job))
        outcomes.append(driver.run(job))
        assert outcomes[-1].status == 0, outcomes
        heard.update(id for outcome in outcomes for id in outcome.acknowledged)
        assert set(heard.values()) <= {1} and heard.keys() <= set(IDS)
        assert committed(job) == IDS
        assert [(e.record, e.weights) for e in entries_of(job)] == [(e.record, e.weights) for e in straight]
        return left, outcomes[1].killed

    found = crew.map(kill, zip(sample, again, strict=True))
    with LifelongEditor.open(Path(whole.root), base_model(), read_only=True) as editor:
        editor.verify(replay=True).check()
    assert len(found) == POINTS
    print(
        f"\n{len(IDS)} requests, {len(straight) - 1} commits, {len(points)} calls: killed at {len(found)} of {POINTS}, "
        f"{sum(twice for _, twice in found)} twice, entries left: {sorted(Counter(n for n, _ in found).items())}; "
        "each id once, in order, with the records and weights of the uninterrupted run; 0 bad"
    )


def test_a_known_id_with_other_content_stops_the_stream(driver: Driver, founded: Path, scratch: Path) -> None:
    for name in ("whole", "work"):
        (scratch / name).mkdir()
    points = faults(driver, staged(founded, scratch / "whole"), scratch / "log")
    job = staged(founded, scratch / "work")
    assert killed(driver, job, points[len(points) // 2], scratch / "log").killed
    known = committed(job)
    assert BATCH <= len(known) < len(IDS)
    before = contents(Path(job.root) / "objects")
    write_source(scratch / "work", [replace(requests()[0], target_new="Kessel"), *requests()[1:]])
    outcome = driver.run(job)
    assert outcome.status == 2 and outcome.error.startswith("RequestError"), outcome
    assert "stream.jsonl:1" in outcome.error and "'request-0' was used at seq 1" in outcome.error
    assert committed(job) == known and contents(Path(job.root) / "objects") == before
    print(f"\n{outcome.error}")
