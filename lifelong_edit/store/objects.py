"""Content-addressed files: a record's name is the SHA-256 of its bytes, checked on every read."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.store.faults import disk_errors

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_digest(value: object) -> bool:
    """Whether `value` is a SHA-256 as the store spells it: 64 lower-case hex digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


class ObjectStore:
    """The files ``ab/abcd....safetensors`` below `root`. No name from outside ever becomes part of a path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the object lies; `StoreCorrupt` when `digest` is not 64 hex digits."""
        if not is_digest(digest):
            raise StoreCorrupt(
                f"{digest[:80]!r} is not the SHA-256 of an object. Restore the ledger that names it from a backup."
            )
        return self.root / digest[:2] / f"{digest}.safetensors"

    def has(self, digest: str) -> bool:
        """Whether a file of that name is there; its bytes are not read. `StoreCorrupt` for a malformed digest."""
        path = self.path(digest)
        with disk_errors("reading", path):
            return path.is_file() and not path.is_symlink()

    def put(self, data: bytes) -> str:
        """Write `data` durably and return its digest.

        The write is never skipped: an object left by an interrupted process may not have reached the disk, and a
        damaged one is healed. Raises `StoreReadOnly` or `StoreError` naming the file.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        with disk_errors("writing", path), _opened_folder(self.root) as root:
            with suppress(FileExistsError):
                os.mkdir(digest[:2], dir_fd=root)
            os.fsync(root)
            with _opened_folder(digest[:2], root) as folder:
                _place(path.name, data, folder)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes whose SHA-256 is `digest`.

        Raises `StoreCorrupt` naming the digest when the object is missing, is a link or has other bytes, and
        `StoreError` when it cannot be read.
        """
        path = self.path(digest)
        with disk_errors("reading", path):
            try:
                with _opened_folder(self.root) as root, _opened_folder(digest[:2], root) as folder:
                    data = _read(path.name, folder)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                    raise
                raise StoreCorrupt(
                    f"object {digest} is missing or not a plain file: {path}. Restore it from a backup."
                ) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreCorrupt(f"object {digest} does not have the bytes it is named by. Restore it from a backup.")
        return data


def replace_file(path: Path, data: bytes) -> None:
    """Make `data` the whole content of `path` at once, durably; a crash leaves the old content or the new.

    The folder must exist and be no link. Raises `StoreReadOnly` or `StoreError` naming the file.
    """
    with disk_errors("writing", path), _opened_folder(path.parent) as folder:
        _place(path.name, data, folder)


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a file that can be made again; `StoreError` when it is no regular file or has more than `limit`.

    The folder must be no link either. Nothing beyond the limit is read, and no pipe is waited for.
    """
    with disk_errors("reading", path), _opened_folder(path.parent) as folder:
        return _read(path.name, folder, limit)


def adopt_file(finished: Path, path: Path) -> None:
    """Make the file `finished`, of the same file system, appear as `path` at once, durably.

    Raises `StoreReadOnly` or `StoreError` naming the file.
    """
    with disk_errors("writing", path), _opened_folder(path.parent) as folder:
        with open(finished, "rb") as file:
            os.fsync(file.fileno())
        os.rename(finished, path.name, dst_dir_fd=folder)
        os.fsync(folder)


def _place(name: str, data: bytes, folder: int) -> None:
    """Make the whole file appear under `name` at once, durably; on failure nothing is left."""
    temporary = f"{name}.{secrets.token_hex(8)}.tmp"
    try:
        with open(os.open(temporary, WRITE_FLAGS, 0o666, dir_fd=folder), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def _read(name: str, folder: int, limit: int | None = None) -> bytes:
    with open(os.open(name, READ_FLAGS, dir_fd=folder), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.ELOOP, "not a plain file", name)
        if limit is not None and about.st_size > limit:
            raise OSError(errno.EFBIG, f"{about.st_size} bytes, of at most {limit}", name)
        return file.read()


@contextmanager
def _opened_folder(path: Path | str, parent: int | None = None) -> Iterator[int]:
    """A descriptor of the folder; a symbolic link is refused."""
    descriptor = os.open(path, FOLDER_FLAGS, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
