"""Where things lie in a store's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lifelong_edit.errors import StoreError
from lifelong_edit.store.faults import disk_errors


@dataclass(frozen=True)
class StoreLayout:
    """The paths of the store in the folder `root`."""

    root: Path

    @property
    def ledger(self) -> Path:
        """The SQLite file that says what happened."""
        return self.root / "ledger.db"

    @property
    def lock(self) -> Path:
        """The file a writer holds."""
        return self.root / "lock"

    @property
    def objects(self) -> Path:
        """Records, named by their SHA-256."""
        return self.root / "objects"

    @property
    def statistics(self) -> Path:
        """Second moments, keyed by everything they depend on."""
        return self.root / "statistics"

    @property
    def cache(self) -> Path:
        """What can be derived again; safe to delete at any time."""
        return self.root / "cache"

    def create(self) -> None:
        """Make the folders, durably; `StoreError` when `root` holds anything that is not a store's.

        What an interrupted `create` left is taken over.
        """
        with disk_errors("creating", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            own = {path.name for path in (self.ledger, self.lock, self.objects, self.statistics, self.cache)}
            foreign = sorted(set(os.listdir(self.root)) - own - {f"{self.ledger.name}-journal"})
            if foreign:
                raise StoreError(f"{self.root} is not empty: it holds {foreign[0]!r}. Choose a new or an empty folder.")
            for folder in (self.objects, self.statistics, self.cache):
                folder.mkdir(exist_ok=True)
            for folder in (self.root, self.root.absolute().parent):
                sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk; `OSError` when that fails, which is never tried again."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
