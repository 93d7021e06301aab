"""Threads and processes: one thread commits, every thread reads and closes, and a forked child holds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from lifelong_edit.errors import StoreBusy, StoreError
from lifelong_edit.store import GENESIS, Store, list_strays

FORKING = """
import os, pathlib, sys, time
from lifelong_edit.errors import StoreError
from lifelong_edit.store import Store
store = Store.open(pathlib.Path(sys.argv[1]))
if os.fork():
    print("opened", flush=True)
    sys.stdin.readline()
    os._exit(0)
try:
    store.check_writable()
except StoreError as error:
    print(error, flush=True)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "store")
    made.commit("init", {"time": "now"}, None, {}, GENESIS)
    return made


def test_a_commit_from_another_thread_is_refused_before_anything_is_written(store: Store) -> None:
    head = store.ledger.entries()[-1].digest
    with ThreadPoolExecutor(1) as other:
        with pytest.raises(StoreError, match="another thread"):
            other.submit(store.commit, "edit", {"time": "now"}, b"a record", {}, head).result()
        assert other.submit(store.ledger.entries).result() == store.ledger.entries()
    assert len(store.ledger.entries()) == 1 and list_strays(store) == ()
    assert store.commit("tag", {"time": "now"}, None, {}, head).seq == 1
    store.close()


def test_every_thread_closes_a_store_and_lets_the_next_writer_in(store: Store) -> None:
    with ThreadPoolExecutor(1) as other:
        other.submit(store.close).result()
    Store.open(store.layout.root).close()
    with pytest.raises(StoreError, match="was closed"):
        store.check_writable()


def test_a_store_that_nobody_has_any_more_is_not_locked(tmp_path: Path) -> None:
    kept = Store.create(tmp_path / "store")
    with pytest.raises(StoreBusy, match="this process is writing to the store already"):
        Store.create(tmp_path / "store")
    del kept
    Store.create(tmp_path / "store").close()


def test_what_other_threads_read_during_commits_is_always_whole(store: Store) -> None:
    done = Event()

    def read() -> list[int]:
        lengths = [1]
        while not done.is_set():
            with store.ledger.snapshot():
                lengths.append(len(store.ledger.entries()))
        return lengths

    with ThreadPoolExecutor(2) as others:
        readers = [others.submit(read) for _ in range(2)]
        try:
            for _ in range(20):
                store.commit("tag", {"time": "now"}, None, {}, store.ledger.entries()[-1].digest)
        finally:
            done.set()
        for lengths in (reader.result() for reader in readers):
            assert lengths == sorted(lengths) and lengths[-1] <= 21
    store.close()


def test_a_forked_child_does_not_hold_the_lock(store: Store) -> None:
    """The holder dies and its child lives on: the store is free. As long as the holder lives, it is the one named."""
    store.close()
    program = [sys.executable, "-c", FORKING, str(store.layout.root)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        said = [holder.stdout.readline().strip() for _ in range(3)]
        child = int(next(line for line in said if line.isdecimal()))
        try:
            assert any("was opened before this process was forked" in line for line in said)
            with pytest.raises(StoreBusy, match=f"process {holder.pid} is writing"):
                Store.open(store.layout.root)
            holder.stdin.write("die\n")
            holder.stdin.flush()
            assert holder.wait() == 0
            os.kill(child, 0)  # the child is there
            Store.open(store.layout.root).close()
        finally:
            os.kill(child, 9)
