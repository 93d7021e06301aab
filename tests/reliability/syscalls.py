"""The driver as seen from a test: run a job, list its mutating system calls with strace, make one of them fail.

A fault is named by a call and a count, as strace counts: each name for itself. Every injection says whether it fired.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability.driver import Job

ROOT = Path(__file__).parents[2]
MUTATING = (
    "openat pwrite64 write ftruncate fallocate fsync fdatasync fchown fchmod rename renameat renameat2 link linkat "
    "unlink unlinkat rmdir mkdir mkdirat"
).split()
CALL = re.compile(r"^(\w+)\((.*)\) += ", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """The `nth` call of that name, counted from the job's start."""

    name: str
    nth: int


@dataclass(frozen=True)
class Outcome:
    """How a job ended: exit status (-9 when killed), what the driver reported, what strace wrote."""

    status: int
    reports: list[list[str]]
    trace: str = ""

    @property
    def acknowledged(self) -> list[str]:
        """The ids that were committed for all the process knew."""
        return [words[1] for words in self.reports if words[0] == "ok"]

    @property
    def error(self) -> str:
        """Class and message of the error that ended the job."""
        return next((" ".join(words[1:]) for words in self.reports if words[0] == "error"), "")

    @property
    def injected(self) -> list[str]:
        """The calls that were made to fail."""
        return [line for line in self.trace.splitlines() if line.endswith("(INJECTED)")]

    @property
    def killed(self) -> bool:
        """Whether the process died of signal 9 inside a traced call."""
        return self.status == -9 and self.trace.rstrip().endswith("+++ killed by SIGKILL +++")


class Driver:
    """A warm driver process; one job at a time. Use it as a context manager."""

    def __init__(self, program: str = "tests.reliability.driver") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            bufsize=1,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )

    def run(self, job: Job, options: Sequence[str] = (), log: Path | None = None) -> Outcome:
        """Do the job; under strace with these options when `log` names where it writes."""
        pid = self.start(job)
        if log is None:
            self.go()
            return self.finish()
        command = ["strace", "-p", str(pid), "-y", "-o", str(log), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            attached = strace.stderr.readline()
            assert "attached" in attached, attached
            self.go()
            outcome = self.finish()
            strace.communicate()
        return Outcome(outcome.status, outcome.reports, log.read_text())

    def start(self, job: Job) -> int:
        """The id of a process that will do the job when told to go."""
        self._say(job.to_json())
        return int(self.hear()[1])

    def go(self) -> None:
        self._say("")

    def hear(self) -> list[str]:
        """The next report."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the driver is gone"
        return line.split()

    def finish(self) -> Outcome:
        """Wait for the job's end."""
        *reports, end = self._until_exit()
        return Outcome(int(end[1]), reports)

    def _until_exit(self) -> Iterator[list[str]]:
        while True:
            words = self.hear()
            yield words
            if words[0] == "exit":
                return

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()


def require_strace() -> None:
    """Skip where strace is missing; fail on a build machine, where these tests must not be skipped."""
    if shutil.which("strace") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("strace is not installed")


def faults(driver: Driver, job: Job, log: Path) -> list[Fault]:
    """Every call of the job that changes something in the folder of `job.root`, in order. The job is done."""
    outcome = driver.run(job, ["-e", f"trace={','.join(MUTATING)}"], log)
    assert outcome.status == 0, outcome
    counts: Counter[str] = Counter()
    found = []
    for name, arguments in CALL.findall(outcome.trace):
        counts[name] += 1
        if str(Path(job.root).parent) in arguments and (name != "openat" or "O_CREAT" in arguments):
            found.append(Fault(name, counts[name]))
    return found


def killed(driver: Driver, job: Job, fault: Fault, log: Path) -> Outcome:
    """The job, killed with signal 9 as it enters the call."""
    return driver.run(job, _injection(fault.name, f"signal=KILL:when={fault.nth}"), log)


def failing(driver: Driver, job: Job, fault: Fault, error: str, onwards: bool, log: Path) -> Outcome:
    """The job, with an error for the call, or for it and all later ones of its name."""
    return driver.run(job, _injection(fault.name, f"error={error}:when={fault.nth}{'+' * onwards}"), log)


def _injection(name: str, effect: str) -> list[str]:
    return ["-e", f"trace={','.join(MUTATING)}", "-e", f"inject={name}:{effect}"]
