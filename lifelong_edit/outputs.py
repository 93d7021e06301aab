"""Files and folders that a user names to be written: whole or not at all, and in place of nothing that is not ours.

Until it is complete, an output lies in a folder with a random name of its own beside its destination. A process that
is killed leaves that folder, `.lifelong-edit.xxxxxxxx.partial`, and nothing else.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lifelong_edit.errors import RequestError, StoreError

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe"}


@contextmanager
def new_file(path: Path, earlier: bytes | None = None) -> Iterator[Path]:
    """A path to write a file to; when the block ends well the file is named `path`, otherwise nothing is left of it.

    A regular file that begins with the bytes `earlier` is an earlier output and gives way. Raises `RequestError` when
    anything else has the name, a link, a pipe or a device included, and `StoreError` when the file cannot be written.
    """
    with _writing(path):
        present = _present(path)
        if present and not (stat.S_ISREG(present.st_mode) and _begins(path, earlier)):
            raise _taken(path, present)
        with _beside(path) as written:
            yield written
            _sync(written)
            if present:
                os.replace(written, path)
            else:
                _name(written, path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when the block ends well it is named `path`, otherwise nothing is left of it.

    An empty folder of that name gives way. Raises `RequestError` when anything else has it, `StoreError` when the
    folder cannot be written.
    """
    with _writing(path):
        present = _present(path)
        if present and (not stat.S_ISDIR(present.st_mode) or os.listdir(path)):
            raise _taken(path, present)
        with _beside(path) as folder:
            folder.mkdir()
            yield folder
            _sync(folder)
            os.rename(folder, path)  # which replaces an empty folder and nothing else


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in _files(path))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the operating system and safetensors have against writing, as a `StoreError` that names the output."""
    if not path.name:
        raise RequestError(f"{str(path)!r} names no file or folder that could be written. Give another name.")
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{path} cannot be written: {reason}. Make room, or give another place.") from error


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path where nothing is yet, on the file system of `path` and in a folder that is gone after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".partial", ".lifelong-edit.", path.parent) as folder:
        yield Path(folder, "output")


def _present(path: Path) -> os.stat_result | None:
    """What has the name now, a link as itself; None when nothing has."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _begins(path: Path, earlier: bytes | None) -> bool:
    with path.open("rb") as file:
        return earlier is not None and file.read(len(earlier)) == earlier


def _name(written: Path, path: Path) -> None:
    """Give a file its name unless somebody took it meanwhile."""
    try:
        os.link(written, path)  # where a rename would replace what came meanwhile
    except OSError:
        if present := _present(path):
            raise _taken(path, present) from None
        os.rename(written, path)  # some file systems have no links


def _sync(path: Path) -> None:
    """Bring the bytes to the disk before they get their name."""
    for file in _files(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _taken(path: Path, present: os.stat_result) -> RequestError:
    kind = KINDS.get(stat.S_IFMT(present.st_mode), "a device or socket")
    return RequestError(f"{path} is there already, {kind} that is not written over. Name a new one, or remove it.")
