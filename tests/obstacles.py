"""What somebody else may have put where an output is to go, and what lies in a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path


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
