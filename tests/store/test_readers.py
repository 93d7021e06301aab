"""A reader never changes a byte, needs no permission to write, and is told when a writer must come first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lifelong_edit.errors import StoreCorrupt, StoreError, StoreReadOnly
from lifelong_edit.store import Store, inspect, list_cache, list_strays
from tests.store.stores import commit, contents, fill, leave_a_hot_journal, old_store


def new_store(root: Path) -> Path:
    with Store.create(root) as store:
        fill(store)
        store.objects.put(b"a stray")
    return root


STORES: dict[str, Callable[[Path], Path]] = {"old": old_store, "new": new_store}


def read_everything(root: Path) -> int:
    with Store.open(root, read_only=True) as store:
        inspect(store).require_sound()
        list_strays(store), list_cache(store)
        store.ledger.db.execute("SELECT * FROM facts, commits").fetchall()
        with pytest.raises(StoreReadOnly):
            commit(store, "tag", tag="x", target=0)
        with pytest.raises(StoreReadOnly):
            store.ledger.append("tag", {"time": "now"}, {}, store.ledger.entries()[-1].digest)
        return len(store.ledger.entries())


@pytest.mark.parametrize("make", STORES)
def test_a_reader_changes_nothing(tmp_path: Path, make: str) -> None:
    root = STORES[make](tmp_path / "store")
    before = contents(root)
    assert read_everything(root) > 0
    assert contents(root) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("make", STORES)
def test_a_user_without_write_permission_reads_and_is_refused_to_write(tmp_path: Path, make: str) -> None:
    root = STORES[make](tmp_path / "store")
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    before = contents(root)
    child = os.fork()
    if child == 0:
        code = 2
        try:
            os.setuid(65534)
            read = read_everything(root)
            Store.open(root)
        except StoreReadOnly:
            code = 0 if read else 1
        finally:  # whatever happened, the copy of the test run ends here
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert contents(root) == before


def test_a_hot_journal_is_named_to_a_reader_and_taken_back_by_a_writer(tmp_path: Path) -> None:
    root = new_store(tmp_path / "store")
    with Store.open(root, read_only=True) as early:
        entries = early.ledger.entries()
        leave_a_hot_journal(root / "ledger.db")
        before = contents(root)
        with pytest.raises(StoreError, match="Open the store for writing once") as told:
            Store.open(root, read_only=True)
        for read in (
            early.ledger.entries,
            early.ledger.head,
            lambda: early.ledger.request("a"),
            lambda: inspect(early),
        ):
            with pytest.raises(StoreError, match="Open the store for writing once"):
                read()
        assert not isinstance(told.value, (StoreReadOnly, StoreCorrupt)) and contents(root) == before
        with Store.open(root) as writer:
            assert writer.ledger.entries() == early.ledger.entries() == entries
            added = commit(writer, "tag", tag="after", target=0)
        assert early.ledger.head() == added
    assert {path.name for path in root.iterdir()} == {"ledger.db", "objects", "statistics", "cache", "lock"}
