"""What a disk may hold after a power cut, derived from what one process did to it without interruption.

A file system promises little: the bytes of a file survive once it was synced, the names in a folder once the folder
was. Everything since may be there or not, in any combination, a write torn between sectors included.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

BASE = 0


@dataclass(frozen=True)
class Write:
    """Bytes of a file, which reach the disk together or not at all."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize:
    """A file is cut, or extended by zeros."""

    node: int
    size: int


@dataclass(frozen=True)
class Rename:
    """Names of a folder that appear (as a node) or vanish (None), together."""

    node: int
    names: Mapping[str, int | None]


@dataclass(frozen=True)
class Sync:
    """All effects on the node so far are on the disk."""

    node: int


@dataclass(frozen=True)
class Acknowledge:
    """The process says that the commit with this id is done."""

    id: str


Change = Write | Resize | Rename
Effect = Change | Sync | Acknowledge
Tree = Mapping[str, bytes | None]
"""Path and bytes of every file, path and None of every folder."""


@dataclass
class Disk:
    """Files and folders by node; node `BASE` is the folder that everything lies in."""

    files: dict[int, bytearray] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {BASE: {}})

    @classmethod
    def of(cls, base: Path) -> Disk:
        """What lies below `base` now."""
        disk = cls()
        for place, folders, files in os.walk(base):
            here = disk.find(Path(place).relative_to(base))
            for name in folders:
                disk.apply(Rename(here, {name: disk.add(folder=True)}))
            for name in files:
                node = disk.add()
                disk.files[node][:] = (Path(place) / name).read_bytes()
                disk.apply(Rename(here, {name: node}))
        return disk

    def copy(self) -> Disk:
        return Disk({n: bytearray(b) for n, b in self.files.items()}, {n: dict(f) for n, f in self.folders.items()})

    def add(self, folder: bool = False) -> int:
        """A new node, without a name yet."""
        node = len(self.files) + len(self.folders)
        if folder:
            self.folders[node] = {}
        else:
            self.files[node] = bytearray()
        return node

    def find(self, path: Path) -> int:
        node = BASE
        for name in path.parts:
            node = self.folders[node][name]
        return node

    def apply(self, change: Change) -> None:
        if isinstance(change, Rename):
            for name, node in change.names.items():
                self.folders[change.node].pop(name, None)
                if node is not None:
                    self.folders[change.node][name] = node
            return
        file = self.files[change.node]
        if isinstance(change, Resize):
            file[change.size :] = bytes(max(0, change.size - len(file)))
        else:
            file.extend(bytes(max(0, change.offset - len(file))))
            file[change.offset : change.offset + len(change.data)] = change.data

    def tree(self, node: int = BASE, prefix: str = "") -> dict[str, bytes | None]:
        """All that can be reached by name."""
        found: dict[str, bytes | None] = {}
        for name, inner in self.folders[node].items():
            path = f"{prefix}{name}"
            found[path] = bytes(self.files[inner]) if inner in self.files else None
            if inner in self.folders:
                found |= self.tree(inner, f"{path}/")
        return found


@dataclass(frozen=True)
class Recording:
    """What a process did to a disk: the nodes as they were, and the effects of each of its calls."""

    before: Disk
    calls: Sequence[Sequence[Effect]]

    def state(self, cut: int, survives: Callable[[Change], bool]) -> Tree:
        """The disk when the power fails after `cut` calls: what was synced, and of the rest what `survives`."""
        effects = [effect for call in self.calls[:cut] for effect in call]
        synced: set[int] = set()
        kept: list[Change] = []
        for effect in reversed(effects):
            if isinstance(effect, Sync):
                synced.add(effect.node)
            elif not isinstance(effect, Acknowledge) and (effect.node in synced or survives(effect)):
                kept.append(effect)
        disk = self.before.copy()
        for change in reversed(kept):
            disk.apply(change)
        return disk.tree()

    def acknowledged(self, cut: int) -> list[str]:
        """The ids whose commit the process had confirmed by then."""
        return [effect.id for call in self.calls[:cut] for effect in call if isinstance(effect, Acknowledge)]

    def states(self, rng: Random, draws: int, cuts: Sequence[int]) -> Iterator[tuple[int, str, Tree]]:
        """At every cut, under four models: cut, model, disk. The last, of random halves, is drawn `draws` times."""
        for cut in cuts:
            yield cut, "killed: everything is kept", self.state(cut, lambda _change: True)
            yield cut, "lost: only what was synced", self.state(cut, lambda _change: False)
            yield cut, "names first, bytes as synced", self.state(cut, lambda change: isinstance(change, Rename))
            for draw in range(draws):
                yield cut, f"a random half, draw {draw}", self.state(cut, lambda _change: rng.random() < 0.5)


def write_tree(tree: Tree, folder: Path) -> None:
    """Make `folder`, which must be empty, hold the tree."""
    for name, data in tree.items():  # a folder comes before what it holds
        path = folder / name
        path.mkdir() if data is None else path.write_bytes(data)
