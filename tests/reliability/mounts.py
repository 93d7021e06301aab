"""File systems of a test's own: a small one, and one that cannot be written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of that size in `folder`, until the block ends."""
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "none"):
        yield


def resize(folder: Path, size: str) -> None:
    """Give a `small_disk` another size, with all it holds."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@contextmanager
def read_only(folder: Path, seen: Path) -> Iterator[None]:
    """What is in `folder`, seen in another one where nobody may write, until the block ends."""
    with _mounted(seen, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(seen)], check=True)
        yield


@contextmanager
def _mounted(folder: Path, *what: str) -> Iterator[None]:
    """Skips the test where the system refuses to mount anything."""
    folder.mkdir()
    done = subprocess.run(["mount", *what, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is refused: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
