"""Who opens what: files of a folder as the kernel sees them, and paths as the interpreter does."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_OPEN, IN_MODIFY, IN_CREATE = 0x20, 0x2, 0x100
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name behind it


@contextmanager
def touched_in(folder: Path) -> Iterator[list[str]]:
    """The names in `folder` that anything opened, wrote or made during the block; filled in at its end."""
    libc, names = ctypes.CDLL(None, use_errno=True), []
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(folder), IN_OPEN | IN_MODIFY | IN_CREATE) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        yield names
        try:
            events = os.read(watch, 1 << 20)
        except BlockingIOError:
            return
        while events:
            *_, length = EVENT.unpack_from(events)
            names.append(os.fsdecode(events[EVENT.size : EVENT.size + length].rstrip(b"\0")))
            events = events[EVENT.size + length :]
    finally:
        os.close(watch)


class PathWatch:
    """Notes the paths that are given to `open`, `os` and `sqlite3` in this process; it cannot be taken back."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._watching = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._watching and event.startswith(("open", "os.", "shutil.", "sqlite3.connect", "subprocess.")):
            given = arguments[:1] if event == "open" else arguments  # its others are mode and flags
            self.paths += [os.fsdecode(a) for a in given if isinstance(a, (str, bytes, os.PathLike))]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what happens in this block only."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
