"""Writing a folder or file of an export so that it is there whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lifelong_edit.errors import RequestError
from lifelong_edit.store.faults import disk_errors


@contextmanager
def placed(destination: Path) -> Iterator[Path]:
    """A path beside `destination` to write to; when the block ends well it takes that name, otherwise it is removed.

    `RequestError` when something is there already, `StoreError` when the disk refuses.
    """
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise RequestError(f"{destination} is there already. Name a new file or folder, or remove it first.")
    partial = destination.with_name(f".{destination.name}.partial")
    with disk_errors("writing", destination):
        _remove(partial)
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            if destination.is_dir():
                destination.rmdir()
            os.replace(partial, destination)
        finally:
            _remove(partial)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
