"""Whatever of the unsynced a power cut takes, the store is whole, and what was acknowledged is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from random import Random

import pytest

from tests.reliability.audit import Unsound
from tests.reliability.conftest import Crew
from tests.reliability.driver import Job
from tests.reliability.mutants import PROTOCOLS
from tests.reliability.powerloss import (
    BASE,
    Acknowledge,
    Disk,
    Recording,
    Rename,
    Resize,
    Sync,
    Tree,
    Write,
    write_tree,
)
from tests.reliability.recording import OPTIONS, record
from tests.reliability.scenes import APPLY, SCENES, Scene
from tests.reliability.syscalls import Driver, require_strace

pytestmark = pytest.mark.reliability
SEEDS = 5
CUTS = 60  # of a longer operation, as many are drawn
LEAST_STATES = 150


@pytest.fixture(autouse=True)
def strace() -> None:
    require_strace()


State = tuple[str, Tree, list[str]]
"""Where in the trace and under which model, the disk, and the ids that had been acknowledged."""


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.operation)
def test_power_loss_at_every_call(scene: Scene, crew: Crew, prepared: Path, scratch: Path, seed: int) -> None:
    def recover(driver: Driver, folder: Path, numbered: tuple[int, State]) -> None:
        number, (described, tree, acknowledged) = numbered
        write_tree(tree, folder)
        try:
            scene.check(folder / "store", acknowledged)
        except Unsound as error:
            pytest.fail(f"seed {number}, {described}: {error}")
        scene.redo(driver, Job(str(folder / "store"), scene.operation, number))

    total, distinct = 0, 0
    for number in range(seed, seed + SEEDS):
        recording = recorded(scene, crew.drivers[0], prepared, scratch / f"seed-{number}", number)
        states = list(states_of(recording, number))
        found = unlike(states)
        crew.map(recover, [(number, state) for state in found])
        assert len(states) >= LEAST_STATES
        total, distinct = total + len(states), distinct + len(found)
    print(f"\n{scene.operation}: {total} states of the disk, {distinct} of them distinct; 0 bad")


@pytest.mark.parametrize("mutant", [protocol.__name__ for protocol in PROTOCOLS])
def test_a_wrong_protocol_is_caught(mutant: str, crew: Crew, prepared: Path, scratch: Path, seed: int) -> None:
    def is_bad(_driver: Driver, folder: Path, state: State) -> bool:
        _described, tree, acknowledged = state
        write_tree(tree, folder)
        try:
            APPLY.check(folder / "store", acknowledged)
        except Unsound:
            return True
        return False

    recording = recorded(APPLY, crew.drivers[0], prepared, scratch / "mutant", seed, mutant)
    states = unlike(states_of(recording, seed))
    bad = sum(crew.map(is_bad, states))
    print(f"\n{mutant}: {bad} of {len(states)} distinct states are bad")
    assert bad > 0


def test_a_disk_keeps_what_was_synced_and_of_the_rest_what_survives() -> None:
    """The simulation itself, on a file that is written, renamed and half synced."""
    start = Disk()
    file = start.add()
    calls = [
        [Rename(BASE, {"new": file})],
        [Write(file, 0, b"one"), Write(file, 3, b"two")],
        [Sync(file)],
        [Rename(BASE, {"new": None, "old": file})],
        [Sync(BASE)],
        [Acknowledge("id")],
        [Resize(file, 1)],
    ]
    recording = Recording(start, calls)
    nothing = [recording.state(cut, lambda _change: False) for cut in range(len(calls) + 1)]
    assert nothing == [{}] * 5 + [{"old": b"onetwo"}] * 3
    everything = [recording.state(cut, lambda _change: True) for cut in (1, 2, 4, 7)]
    assert everything == [{"new": b""}, {"new": b"onetwo"}, {"old": b"onetwo"}, {"old": b"o"}]
    torn = recording.state(2, lambda change: change != Write(file, 0, b"one"))
    assert torn == {"new": b"\0\0\0two"}
    assert recording.acknowledged(5) == [] and recording.acknowledged(6) == ["id"]


def recorded(
    scene: Scene, driver: Driver, prepared: Path, base: Path, seed: int, mutant: str | None = None
) -> Recording:
    """What the whole operation did to the disk."""
    base.mkdir()
    job = replace(scene.stage(prepared, base, seed), mutant=mutant)
    before, log = Disk.of(base), base.with_suffix(".log")
    outcome = driver.run(job, OPTIONS, log)
    assert outcome.status == 0, outcome
    recording = record(outcome.trace, base, before)
    assert recording.state(len(recording.calls), lambda _change: True) == Disk.of(base).tree()
    return recording


def states_of(recording: Recording, seed: int) -> Iterator[State]:
    """The states at every cut, or at `CUTS` of them when there are more."""
    rng, cuts = Random(seed), range(len(recording.calls) + 1)
    drawn = cuts if len(cuts) <= CUTS else sorted(rng.sample(cuts, CUTS))
    for cut, model, tree in recording.states(rng, max(1, ceil(LEAST_STATES / len(drawn)) - 3), drawn):
        yield f"after call {cut}, {model}", tree, recording.acknowledged(cut)


def unlike(states: Iterable[State]) -> list[State]:
    """One of each."""
    found = {(tuple(tree.items()), tuple(ids)): (described, tree, ids) for described, tree, ids in states}
    return list(found.values())
