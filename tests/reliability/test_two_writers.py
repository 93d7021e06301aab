"""Two writers: the lock keeps the second out, and without the lock the ledger alone still keeps them apart."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from tests.reliability.audit import check
from tests.reliability.conftest import Crew
from tests.reliability.driver import RACE, Job
from tests.reliability.histories import Event, events, violations
from tests.reliability.syscalls import Driver, Fault, Outcome, killed, require_strace

pytestmark = pytest.mark.reliability
KILLS = 5
SYNCS = 4  # of a commit, at least


def test_the_second_writer_is_refused_until_the_first_is_killed(crew: Crew, prepared: Path) -> None:
    first, second = crew.drivers
    pid = first.start(Job(str(prepared), "hold"))
    first.go()
    assert first.hear() == ["held"]
    begun = time.monotonic()
    outcome = second.run(Job(str(prepared), "apply"))
    refused = time.monotonic() - begun
    assert outcome.status == 6 and f"process {pid} is writing" in outcome.error, outcome
    assert second.run(Job(str(prepared), "read")).status == 0
    check(prepared, 3, 3)

    os.kill(pid, signal.SIGKILL)
    assert first.finish().status == -9
    begun = time.monotonic()
    outcome = second.run(Job(str(prepared), "apply"))
    assert outcome.status == 0, outcome
    check(prepared, 4, 4, outcome.acknowledged)
    print(f"\nrefused within {refused:.3f} s, naming {pid}; committed {time.monotonic() - begun:.3f} s after its kill")


def test_without_the_lock_none_is_lost_and_none_forks(crew: Crew, prepared: Path) -> None:
    for number, driver in enumerate(crew.drivers):
        driver.start(racer(number, prepared))
    for driver in crew.drivers:
        driver.go()
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(Driver.finish, crew.drivers))
    assert [outcome.status for outcome in outcomes] == [0, 0]
    committed, history = outcome_of(prepared, outcomes)
    assert len(committed) == 2 * RACE and violations(history, committed) == []
    turns = sum(a.split("-")[1] != b.split("-")[1] for a, b in pairwise(committed))
    assert turns > 1, "the writers never met"
    print(
        f"\n{len(committed)} of {2 * RACE} commits, writers took turns {turns} times, 0 forks, 0 lost, 0 out of order"
    )


def test_without_the_lock_and_killed_again_and_again(crew: Crew, prepared: Path, scratch: Path, seed: int) -> None:
    require_strace()
    rng = Random(seed)

    def killed_until_done(driver: Driver) -> list[Outcome]:
        points = [Fault("fdatasync", rng.randint(1, RACE // KILLS * SYNCS)) for _ in range(KILLS)]
        cut_short = [killed(driver, racer(0, prepared), point, scratch / "log") for point in points]
        return [*cut_short, driver.run(racer(0, prepared))]

    with ThreadPoolExecutor(2) as pool:
        steady = pool.submit(crew.drivers[1].run, racer(1, prepared))
        outcomes = [*killed_until_done(crew.drivers[0]), steady.result()]
    assert [outcome.status for outcome in outcomes] == [-9] * KILLS + [0, 0]
    committed, history = outcome_of(prepared, outcomes)
    assert len(committed) == 2 * RACE and violations(history, committed) == []
    print(f"\n{len(committed)} of {2 * RACE} commits, one writer killed {KILLS} times, 0 forks, 0 lost, 0 twice")


def racer(number: int, root: Path) -> Job:
    """One of several processes that commit at once."""
    return Job(str(root), "race", seed=number, mutant="no_lock")


def outcome_of(root: Path, outcomes: list[Outcome]) -> tuple[list[str], list[Event]]:
    """The ids that the race brought into the ledger, in its order, and what its processes saw; the chain holds."""
    bodies = check(root, 3, 3 + 2 * RACE)[3:]
    return [id for body in bodies for id in body["requests"]], events(words for o in outcomes for words in o.reports)


HISTORY = [Event("invoke", "a", 1), Event("ok", "a", 2), Event("invoke", "b", 3), Event("ok", "b", 5)]
UNKNOWN = Event("invoke", "c", 4)


@pytest.mark.parametrize("committed", [["a", "b"], ["a", "c", "b"], ["a", "b", "c"]])
def test_a_possible_history_is_accepted(committed: list[str]) -> None:
    assert violations([*HISTORY, UNKNOWN], committed) == []


@pytest.mark.parametrize(
    ("committed", "said"),
    [
        (["a"], "b was confirmed and is lost"),
        (["a", "b", "x"], "x was never asked for"),
        (["a", "b", "a"], "a is there 2 times"),
        (["b", "a"], "a was confirmed before"),
        (["c", "a", "b"], "a was confirmed before"),
    ],
)
def test_an_impossible_history_is_not(committed: list[str], said: str) -> None:
    assert any(wrong.startswith(said) for wrong in violations([*HISTORY, UNKNOWN], committed))
