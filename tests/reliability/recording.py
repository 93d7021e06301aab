"""From strace's log to a `Recording`: which file or folder each call changed, and how."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tests.reliability.powerloss import Acknowledge, Change, Disk, Effect, Recording, Rename, Resize, Sync, Write
from tests.reliability.syscalls import MUTATING

SECTOR = 512
OPTIONS = ["-xx", "-s", "1000000", "-e", f"trace={','.join([*MUTATING, 'writev'])}"]
HEX = r"(?:\\x[0-9a-f]{2})*"
CALL = re.compile(rf"^(\w+)\((.*)\) += (\d+)(?:<({HEX})>)?$", re.MULTILINE)  # of calls that did not fail


def record(trace: str, base: Path, before: Disk) -> Recording:
    """The recording of strace's log (taken with `OPTIONS`) of a process that changed things below `base`.

    `before` is `Disk.of(base)` at its start.
    """
    reader = _Reader(base, before.copy())
    calls = [reader.effects(*match.groups()) for match in CALL.finditer(trace)]
    # A node that is made on the way stands from the start, empty and without a name, so that all states share nodes.
    start = before.copy()
    for node in range(len(before.files) + len(before.folders), len(reader.disk.files) + len(reader.disk.folders)):
        start.add(folder=node in reader.disk.folders)
    return Recording(start, [call for call in calls if call])


class _Reader:
    """Follows the calls of one process: which node a name means at the time, and where a file is written next."""

    def __init__(self, base: Path, disk: Disk) -> None:
        self.base = base
        self.disk = disk
        self.positions: dict[str, int] = {}

    def effects(self, name: str, arguments: str, result: str, opened: str | None) -> list[Effect]:
        """What the call did below `base`; nothing for a call that only opened or changed no content."""
        paths = [_decoded(text).decode() for text in re.findall(rf"<({HEX})>", arguments)]
        texts = [_decoded(text) for text in re.findall(rf'"({HEX})"', arguments)]
        if name == "writev":
            return [Acknowledge(words[1]) for words in [texts[0].decode().split()] if words[0] == "ok"]
        if name == "openat":
            return self._open(_decoded(opened or "").decode(), result, arguments)
        if name in ("fchown", "fchmod"):
            return []
        if name in ("write", "pwrite64", "ftruncate", "fsync", "fdatasync"):
            return self._on_descriptor(name, arguments, paths[0], texts, int(result))
        return self._on_names(name, [os.path.join(*pair) for pair in _pairs(name, paths, texts)])

    def _open(self, path: str, descriptor: str, arguments: str) -> list[Effect]:
        self.positions[descriptor] = 0
        if "O_CREAT" not in arguments or not self._below(path):
            return []
        if self._exists(path):
            return self._applied(Resize(self._node(path), 0)) if "O_TRUNC" in arguments else []
        return self._applied(Rename(self._folder(path), {os.path.basename(path): self.disk.add()}))

    def _on_descriptor(self, name: str, arguments: str, path: str, texts: list[bytes], result: int) -> list[Effect]:
        if not self._below(path):
            return []
        node = self._node(path)
        if name in ("fsync", "fdatasync"):
            return [Sync(node)]
        if name == "ftruncate":
            return self._applied(Resize(node, int(arguments.rsplit(", ", 1)[1])))
        descriptor = arguments.split("<", 1)[0]
        offset = int(arguments.rsplit(", ", 1)[1]) if name == "pwrite64" else self.positions[descriptor]
        if name == "write":
            self.positions[descriptor] += result
        return self._applied(*(Write(node, at, data) for at, data in _sectors(offset, texts[0][:result])))

    def _on_names(self, name: str, paths: list[str]) -> list[Effect]:
        if not self._below(paths[0]):
            return []
        folder, names = self._folder(paths[0]), [os.path.basename(path) for path in paths]
        if name.startswith("mkdir"):
            return self._applied(Rename(folder, {names[0]: self.disk.add(folder=True)}))
        if name.startswith("unlink"):
            return self._applied(Rename(folder, {names[0]: None}))
        assert name.startswith("rename") and self._folder(paths[1]) == folder, f"{name} is not simulated"
        return self._applied(Rename(folder, {names[0]: None, names[1]: self._node(paths[0])}))

    def _applied(self, *changes: Change) -> list[Effect]:
        for change in changes:
            self.disk.apply(change)
        return list(changes)

    def _below(self, path: str) -> bool:
        return Path(path).is_relative_to(self.base)

    def _exists(self, path: str) -> bool:
        return os.path.basename(path) in self.disk.folders[self._folder(path)]

    def _node(self, path: str) -> int:
        return self.disk.find(Path(path).relative_to(self.base))

    def _folder(self, path: str) -> int:
        return self._node(os.path.dirname(path))


def _pairs(name: str, paths: list[str], texts: list[bytes]) -> Iterator[tuple[str, str]]:
    """Folder and name of each file a call names; a call without folders names them whole."""
    folders = paths if name.endswith("at") or name.endswith("at2") else [""] * len(texts)
    return ((folder, text.decode()) for folder, text in zip(folders, texts, strict=True))


def _sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The data in pieces that a disk writes whole or not at all."""
    end = offset + len(data)
    edges = [offset, *range((offset // SECTOR + 1) * SECTOR, end, SECTOR), end]
    return ((a, data[a - offset : b - offset]) for a, b in pairwise(edges))


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
