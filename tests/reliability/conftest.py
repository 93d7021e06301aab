"""Where the reliability tests work, and who works for them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import pytest

from tests.reliability.audit import MEMORY
from tests.reliability.driver import Job
from tests.reliability.syscalls import Driver

Point, Found = TypeVar("Point"), TypeVar("Found")


class Crew:
    """Two drivers, each with a folder of its own."""

    def __init__(self, drivers: list[Driver], scratch: Path) -> None:
        self.drivers = drivers
        self._free: SimpleQueue[tuple[Driver, Path]] = SimpleQueue()
        for number, driver in enumerate(drivers):
            self._free.put((driver, scratch / f"worker-{number}"))

    def map(self, work: Callable[[Driver, Path, Point], Found], points: Iterable[Point]) -> list[Found]:
        """`work(driver, folder, point)` for every point, in its order; the folder is empty each time."""

        def one(point: Point) -> Found:
            driver, folder = self._free.get()
            try:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                return work(driver, folder, point)
            finally:
                self._free.put((driver, folder))

        with ThreadPoolExecutor(len(self.drivers)) as pool:
            return list(pool.map(one, points))


@pytest.fixture
def seed() -> int:
    """Where a test's random numbers start; another one is tried with RELIABILITY_SEED=7."""
    seed = int(os.environ.get("RELIABILITY_SEED", "0"))
    print(f"\nseed {seed}")
    return seed


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty folder that every user may enter, in memory where there is a file system for that.

    A killed process loses nothing that the kernel has, whatever the disk; only a power cut would tell the difference.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def drivers(request: pytest.FixtureRequest) -> Iterator[list[Driver]]:
    """Two drivers, with the program that the module names as `PROGRAM`, or the one that has the store alone."""
    program = getattr(request.module, "PROGRAM", "tests.reliability.driver")
    with Driver(program) as first, Driver(program) as second:
        yield [first, second]


@pytest.fixture
def crew(drivers: list[Driver], scratch: Path) -> Crew:
    return Crew(drivers, scratch)


@pytest.fixture
def driver(crew: Crew) -> Driver:
    return crew.drivers[0]


@pytest.fixture
def prepared(scratch: Path, driver: Driver) -> Path:
    """A store of three entries; tests work on copies."""
    root = scratch / "prepared"
    assert driver.run(Job(str(root), "prepare")).status == 0
    return root
