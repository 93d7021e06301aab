"""The program that is killed, cut off from the disk and raced: it makes one change to a store and says so.

It imports the store alone, once, and forks for every job, so that a fault costs hundredths of a second. Jobs come as
lines of JSON; each is answered by the child's process id, by what the child reports, and by how it ended. A child
waits for one more line before it starts, so that whoever wants to can attach to it first.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng

from lifelong_edit.errors import LifelongEditError, RequestError, StoreBusy, StoreError
from lifelong_edit.store import GENESIS, KernelPart, KernelRecord, Store
from lifelong_edit.store.upkeep import collect_garbage
from lifelong_edit.store.verify import inspect
from tests.reliability.mutants import MUTANTS

COMMON = {"time": "2026-01-01T00:00:00Z", "actor": "test", "reason": None, "versions": {"numpy": "2"}, "seed": 0}
STREAM, RACE = 8, 300
SHAPE = (24, 16)  # of the weight, [d_out, d_in]
CONTINUED = 99  # exit code of a store that works on after an error whose outcome it cannot know
PR_SET_PTRACER, ANY_PROCESS = 0x59616D61, ctypes.c_ulong(-1)


@dataclass(frozen=True)
class Job:
    """One change to the store in `root`; `seed` says with which facts, `mutant` with which protocol."""

    root: str
    operation: str
    seed: int = 0
    mutant: str | None = None
    uid: int | None = None  # of the user who does it; the driver's own when None

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Change:
    """What one commit asks for, ready-made: no model is needed to compute it."""

    id: str
    kind: str
    body: Mapping[str, Any]
    record: bytes | None


def init_change() -> Change:
    return Change("init", "init", {**COMMON, "weights": sha256(b"base")}, None)


def edit_change(seed: int, number: int = 0) -> Change:
    """An edit of two facts, with a record of 2 KB whose bytes depend on seed and number."""
    rng = default_rng([seed, number])
    (d_out, d_in), ids = SHAPE, (f"edit-{seed}-{number}", f"edit-{seed}-{number}-also")
    shapes = {"left": (d_out, 2), "right": (d_in, 2), "keys": (d_in, 2), "whitened": (d_in, 2)}
    part = KernelPart(
        **{name: rng.normal(size=shape) for name, shape in shapes.items()},
        base_residuals=rng.normal(size=(d_out, 2)),
        ridge=np.ones(2),
    )
    request = {"prompt": "{} lives in", "subject": "Ada", "target_new": "Tarsis"}
    facts = [{"id": id, "slot": id, "request": request} for id in ids]
    body = {**COMMON, "facts": facts, "columns": [[id] for id in ids], "method": "memit"}
    return Change(ids[0], "edit", body, KernelRecord(ids, {"mlp.weight": part}).to_bytes())


def revert_change(seed: int) -> Change:
    """A revert of the first fact of `prepare`'s first edit."""
    rng, fact = default_rng([seed, 99]), edit_change(PREPARED).id
    part = KernelPart(left=rng.normal(size=(SHAPE[0], 1)), right=rng.normal(size=(SHAPE[1], 1)))
    record = KernelRecord((fact,), {"mlp.weight": part}).to_bytes()
    return Change(f"revert-{seed}", "revert", {**COMMON, "facts": [fact]}, record)


def commit(store: Store, change: Change) -> None:
    """Make the change unless its id is in the ledger, and acknowledge it, right after the commit."""
    if store.ledger.request(change.id) is None:
        try:
            append(store, change)
        except (RequestError, StoreBusy):
            raise
        except StoreError:
            _must_refuse(store)
            raise
    report("ok", change.id)


def append(store: Store, change: Change) -> None:
    """Commit on the head as it is. The digest of the weights is a fold over all records before it."""
    head = store.ledger.head()
    weights = change.body.get("weights") or sha256((str(head and head.weights)).encode() + (change.record or b""))
    requests = {change.id: sha256(change.id.encode())}
    store.commit(
        change.kind, {**change.body, "weights": weights}, change.record, requests, head.digest if head else GENESIS
    )


def init(job: Job) -> None:
    with Store.create(Path(job.root)) as store:
        commit(store, init_change())


def apply(job: Job) -> None:
    with Store.open(Path(job.root)) as store:
        commit(store, edit_change(job.seed))


def revert(job: Job) -> None:
    with Store.open(Path(job.root)) as store:
        commit(store, revert_change(job.seed))


def stream(job: Job) -> None:
    with Store.open(Path(job.root)) as store:
        for number in range(STREAM):
            commit(store, edit_change(job.seed, number))


def recover(job: Job) -> None:
    """What every opening does first."""
    with Store.open(Path(job.root)) as store:
        store.ledger.head()


def upgrade(job: Job) -> None:
    """On a ledger of an older format, the same brings it up to date."""
    recover(job)


def gc(job: Job) -> None:
    with Store.open(Path(job.root)) as store:
        collect_garbage(store)


def verify(job: Job) -> None:
    """All that the product can tell of the store without a model, by a reader."""
    with Store.open(Path(job.root), read_only=True) as store:
        found = inspect(store)
    found.require_sound()
    report("strays", str(len(found.strays)))


def read(job: Job) -> None:
    """The log, and every record with its bytes, by a reader."""
    with Store.open(Path(job.root), read_only=True) as store:
        for entry in store.ledger.entries():
            report("entry", str(entry.seq), sha256(store.objects.get(entry.record)) if entry.record else "")


def hold(job: Job) -> None:
    """Keep the writer's lock until killed."""
    with Store.open(Path(job.root)):
        report("held")
        os.read(0, 1)


def race(job: Job) -> None:
    """`RACE` commits beside other processes that do the same, each with what a history needs: when asked, when done."""
    for number in range(RACE):
        change = edit_change(job.seed, number)
        report("invoke", change.id, str(time.monotonic_ns()))
        while not _committed_once(Path(job.root), change):
            pass
        report("ok", change.id, str(time.monotonic_ns()))


def _committed_once(root: Path, change: Change) -> bool:
    """Whether the change is in the ledger now; not when another process was in the way."""
    try:
        with Store.open(root) as store:
            if store.ledger.request(change.id) is None:
                append(store, change)
    except StoreBusy:
        return False
    return True


def prepare(job: Job) -> None:
    """A store with something in it: an init and two edits."""
    init(job)
    for number in range(2):
        with Store.open(Path(job.root)) as store:
            commit(store, edit_change(PREPARED, number))


PREPARED = 1_000_000
"""Seed of what `prepare` commits; no other job uses it."""

Operations = Mapping[str, Callable[[Job], None]]
OPERATIONS: Operations = {
    operation.__name__: operation
    for operation in (init, apply, revert, stream, gc, upgrade, recover, verify, read, hold, race, prepare)
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def report(*words: str) -> None:
    """One line to whoever gave the job; by `writev`, which no test lets fail."""
    os.writev(1, [" ".join(words).encode() + b"\n"])


def perform(job: Job, operations: Operations) -> int:
    """Do the job and give the exit code, as the command line would."""
    try:
        if job.uid is not None:
            os.setgroups([])
            os.setgid(job.uid)
            os.setuid(job.uid)
        if job.mutant:
            MUTANTS[job.mutant]()
        operations[job.operation](job)
    except LifelongEditError as error:
        report("error", type(error).__name__, *str(error).split())
        return error.exit_code
    return 0


def serve(operations: Operations) -> None:
    """Fork for every line of standard input, until it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY_PROCESS)  # lets an unprivileged strace attach
    for line in sys.stdin:
        child = os.fork()
        if not child:
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY_PROCESS)
            report("pid", str(os.getpid()))
            os.read(0, 1)
            os._exit(perform(Job(**json.loads(line)), operations))
        report("exit", str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def _must_refuse(store: Store) -> None:
    """After an error whose outcome is unknown, end the process with `CONTINUED` if the store takes another commit."""
    try:
        append(store, Change("afterwards", "tag", {**COMMON, "tag": "x", "target": 0}, None))
    except StoreError:
        return
    os._exit(CONTINUED)


if __name__ == "__main__":
    serve(OPERATIONS)
