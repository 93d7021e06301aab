"""An old ledger is read as it is and becomes a new one at once, or not at all."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_utils.migrations import Migrations

from lifelong_edit.errors import StoreBusy, StoreError
from lifelong_edit.store import Ledger, Store, schema
from tests.store.stores import commit, contents, old_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return old_store(tmp_path / "store")


@pytest.fixture
def path(root: Path) -> Path:
    return root / "ledger.db"


def killed_at_step(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch, step: int) -> bool:
    """Whether a process that does `act` was killed when the SQL of this step had run and was not noted yet."""
    steps = iter(range(1, step + 1))
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(
            Migrations, "_record_applied", lambda *_: next(steps) == step and os.kill(os.getpid(), signal.SIGKILL)
        )
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_an_old_store_is_read_without_a_byte_changed(root: Path) -> None:
    before = contents(root)
    with Store.open(root, read_only=True) as store:
        assert store.ledger.format == 1
        assert [entry.kind for entry in store.ledger.entries()] == ["init", "edit", "edit", "revert", "edit"]
        assert store.ledger.request("ada") is not None
    assert contents(root) == before


def test_a_writer_makes_it_a_new_one_with_the_same_entries(root: Path, tmp_path: Path) -> None:
    schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    with Store.open(root, read_only=True) as store:
        entries = store.ledger.entries()
    with Store.open(root) as store, Ledger.create(tmp_path / "new.db") as new:
        assert store.ledger.format == new.format == 2
        assert store.ledger.entries() == entries
        assert store.ledger.db.execute(schema).fetchall() == new.db.execute(schema).fetchall()
        found = store.ledger.db.execute("SELECT status, since FROM facts WHERE id = 'bo'").fetchall()
        assert found == [("reverted", 3)]
        added = commit(store, "tag", tag="x", target=0)
    with Store.open(root) as store:
        assert store.ledger.entries() == [*entries, added]


def test_a_step_that_fails_leaves_the_old_ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="nowhere"):
        patch.setattr(schema, "FORMAT_2", schema.FORMAT_2 + "SELECT fails FROM nowhere;")
        Ledger.open(path)
    assert path.read_bytes() == before
    Ledger.open(path).close()


@pytest.mark.parametrize("step", [1, 2])
def test_a_process_killed_between_the_steps_leaves_the_old_ledger(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with Ledger.open(path, read_only=True) as ledger:
        entries = ledger.entries()
    assert killed_at_step(lambda: Ledger.open(path), monkeypatch, step)
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.format == 1 and ledger.entries() == entries
    with Ledger.open(path) as ledger:
        assert ledger.format == 2 and ledger.entries() == entries


@pytest.mark.parametrize("step", [1, 2])
def test_a_killed_creation_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    root = tmp_path / "new"
    assert killed_at_step(lambda: Store.create(root), monkeypatch, step)
    with Store.create(root) as store:
        assert store.ledger.format == 2
        commit(store, "init")


def test_a_creation_that_an_older_version_began_is_continued_but_its_entries_are_kept(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(StoreError, match="holds a ledger already"):
        Ledger.create(path)
    assert path.read_bytes() == before
    unfinished = path.with_name("unfinished.db")
    with sqlite3.connect(unfinished) as connection:
        connection.executescript(schema.FORMAT_1)
    connection.close()
    with Ledger.create(unfinished) as ledger:
        assert ledger.format == 2 and ledger.head() is None


def test_an_old_ledger_in_use_waits_for_its_turn(path: Path) -> None:
    with Ledger.open(path, read_only=True) as reader:
        with reader.snapshot(), pytest.raises(StoreBusy):
            Ledger.open(path, patience=0.0)
        assert reader.format == 1
        entries = reader.entries()
        Ledger.open(path).close()
        assert reader.format == 2 and reader.entries() == entries
