"""One writer at a time. A convenience: the guarantee is the ledger's comparison of the head."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from lifelong_edit.errors import StoreBusy
from lifelong_edit.store.faults import disk_errors

FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class WriterLock:
    """An exclusive lock on a file, held from construction until `close` or the death of the process, however it dies.

    Raises `StoreBusy` at once, naming the holder's process id, when another holds it; `StoreReadOnly` or
    `StoreError` when the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        with disk_errors("locking", path):
            self._descriptor = os.open(path, FLAGS, 0o666)
            try:
                self._acquire(path)
            except BaseException:
                self.close()
                raise

    def _acquire(self, path: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            raise StoreBusy(
                f"{path}: process {holder or 'unknown'} is writing to the store. "
                "Wait until it is done, or open the store for reading."
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Let the next writer in; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
