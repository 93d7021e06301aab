"""One writer; the lock dies with its holder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lifelong_edit.errors import StoreBusy, StoreError
from lifelong_edit.store import WriterLock

HOLD = (
    "import pathlib, sys, time; from lifelong_edit.store.store import WriterLock;"
    "lock = WriterLock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def test_the_second_process_is_told_who_holds_it_until_that_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("99999999999 an older and longer holder")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreBusy, match=f"process {holder.pid} is writing"):
            WriterLock(path)
        holder.kill()
    with WriterLock(path):
        pass


def test_it_is_exclusive_within_a_process_and_free_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), WriterLock(path) as lock:
        with pytest.raises(StoreBusy):
            WriterLock(path)
        raise ZeroDivisionError
    lock.close()
    WriterLock(path).close()


def test_it_is_free_after_the_block_though_a_program_that_is_just_starting_shares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_file = list[int](), os.open
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(open_file(*arguments)) or opened[-1])
    with WriterLock(tmp_path / "lock"):
        shared = os.dup(opened[0])  # as it is between fork and exec
    WriterLock(tmp_path / "lock").close()
    os.close(shared)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("kept")
    (tmp_path / "lock").symlink_to(outside)
    with pytest.raises(StoreError):
        WriterLock(tmp_path / "lock")
    assert outside.read_text() == "kept"
