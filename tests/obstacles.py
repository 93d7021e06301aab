"""What somebody may have put where a file is to be read or written, and what must not happen then."""

from __future__ import annotations

import os
import signal
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest


def full_folder(path: Path) -> None:
    path.mkdir()
    (path / "inner").write_text("kept")


def bound_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(path))


def link_to_file(path: Path) -> None:
    (path.parent / "aim").write_text("kept")
    path.symlink_to("aim")


OTHERS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("kept"),
    "pipe": os.mkfifo,
    "socket": bound_socket,
    "link": link_to_file,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "full folder": full_folder,
}


def inventory(folder: Path) -> dict[str, object]:
    """Everything below a folder: its kind, its number and, of a regular file, its content."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.lstat().st_ino, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


@contextmanager
def never_waiting(seconds: int = 20) -> Iterator[None]:
    """Fail when the block hangs: it ends at once, or waits forever for the other end of a pipe."""

    def failed(_signal: int, _frame: object) -> None:
        pytest.fail("it waits for somebody")

    before = signal.signal(signal.SIGALRM, failed)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def in_memory_of(size: int) -> Iterator[None]:
    """Fail when the block holds more than so many bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def endless(path: Path, size: int = 1 << 42) -> None:
    """A file of more bytes than anybody has memory for, all zero; on disk it has none."""
    path.touch()
    os.truncate(path, size)
