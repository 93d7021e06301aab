"""A copy is a whole store of one moment of the other, or the destination is what it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.errors import StoreBusy, StoreCorrupt, StoreError
from lifelong_edit.store import Copied, Entry, ObjectStore, Store, backup, clone, copies, inspect
from tests.store.stores import commit, contents, fact, fill, leave_a_hot_journal, old_store, record_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store") as store:
        fill(store)
        yield store


@pytest.fixture
def root(store: Store) -> Path:
    return store.layout.root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def sound_entries(root: Path) -> list[Entry]:
    with Store.open(root, read_only=True) as store:
        inspect(store).require_sound()
        return store.ledger.entries()


@pytest.mark.parametrize("copy", [backup, clone])
def test_a_copy_of_a_store_in_use_is_a_store_with_the_same_history(
    store: Store, root: Path, target: Path, copy: Callable[[Path, Path], Copied]
) -> None:
    store.objects.put(b"a stray stays behind")
    before = contents(root)
    copied = copy(root, target)
    entries = store.ledger.entries()
    assert contents(root) == before and sound_entries(target) == entries
    assert (copied.head, copied.entries, copied.objects) == (entries[-1].digest, 8, 6)
    sizes = [path.stat().st_size for path in target.rglob("*.safetensors")]
    assert (len(sizes), sum(sizes)) == (copied.objects, copied.bytes)
    assert {path.name for path in target.iterdir()} == {path.name for path in root.iterdir()}
    assert not list((target / "cache").iterdir())


@pytest.mark.parametrize("copy", [backup, clone])
def test_a_preview_says_what_is_then_copied_and_writes_nothing(
    store: Store, root: Path, target: Path, copy: Callable[[Path, Path], Copied]
) -> None:
    told = copies.preview_copy(root, target, anew=copy is clone)
    assert not target.exists() and told == copy(root, target)
    commit(store, "edit", record_of("d"), facts=[fact("d")])
    with pytest.raises(StoreError, match="holds a store already"):
        copies.preview_copy(root, target, anew=True)
    with pytest.raises(StoreError, match="lies in the store"):
        copies.preview_copy(root, root / "copy", anew=True)
    if copy is backup:
        told = copies.preview_copy(root, target, anew=False)
        assert told.objects == 1 and told == backup(root, target)


def test_a_clone_goes_its_own_way(store: Store, root: Path, target: Path) -> None:
    clone(root, target)
    with Store.open(target) as other:
        own = commit(other, "edit", record_of("d"), facts=[fact("d")])
        theirs = commit(store, "edit", record_of("e"), facts=[fact("e")])
    assert sound_entries(target)[-1] == own and sound_entries(root)[-1] == theirs
    with pytest.raises(StoreError, match="holds a store already"):
        clone(root, target)
    before = contents(target)
    with pytest.raises(StoreError, match="no earlier backup"):
        backup(root, target)
    assert contents(target).items() - before.items() <= {("lock", contents(target)["lock"])}


def test_a_later_backup_copies_what_is_new_or_damaged(store: Store, root: Path, target: Path) -> None:
    backup(root, target)
    assert backup(root, target).objects == 0
    commit(store, "edit", record_of("d"), facts=[fact("d")])
    assert backup(root, target).objects == 1
    commit(store, "tag", tag="later", target=8)
    record = store.ledger.entries()[1].record
    assert record is not None
    ObjectStore(target / "objects").path(record).write_bytes(b"rotten")
    assert backup(root, target).objects == 1
    assert sound_entries(target) == store.ledger.entries()


def test_a_backup_that_is_ahead_is_kept(store: Store, root: Path, target: Path) -> None:
    backup(root, target)
    with Store.open(target) as other:
        commit(other, "tag", tag="x", target=0)
    entries = sound_entries(target)
    with pytest.raises(StoreError, match="history has 9 entries"):
        backup(root, target)
    assert sound_entries(target) == entries


def test_a_backup_interrupted_anywhere_is_the_earlier_one_until_it_is_repeated(
    store: Store, root: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point of failure moves on by one until the backup completes untouched."""
    backup(root, target)
    earlier = sound_entries(target)
    for id in ("d", "e"):
        commit(store, "edit", record_of(id), facts=[fact(id)])
    seen: list[list[Entry]] = []
    failures = interrupted_everywhere(
        lambda: backup(root, target), monkeypatch, lambda: seen.append(sound_entries(target))
    )
    now = store.ledger.entries()
    assert failures == len(seen) > 8 and sound_entries(target) == now
    assert seen[:-1] == [earlier] * (failures - 1) and seen[-1] == now, "only the very last call is after the rename"
    assert not list((target / "cache").iterdir()) and not list(target.rglob("*.tmp"))


def interrupted_everywhere(
    act: Callable[[], object], monkeypatch: pytest.MonkeyPatch, after: Callable[[], None]
) -> int:
    """How often `act` was made to fail, each time one call later than the last, before it completed untouched."""
    for point in range(1000):
        calls = iter(range(1000))

        def failing(real: Callable[..., Any], at: int = point, calls: Iterator[int] = calls) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if next(calls) == at:
                    raise OSError(5, "Input/output error")
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "rename"):
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                act()
            except StoreError:
                if next(calls) <= point:
                    raise  # it failed before it was made to
                after()
            else:
                return point
    raise AssertionError("it never completed")


def test_an_interrupted_clone_is_repeated(
    store: Store, root: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    with pytest.raises(StoreError, match="holds a store already"):  # once the ledger is there, all is there
        interrupted_everywhere(
            lambda: clone(root, target), monkeypatch, lambda: seen.append((target / "ledger.db").exists())
        )
    assert len(seen) > 8 and seen == [False] * (len(seen) - 1) + [True]
    assert sound_entries(target) == store.ledger.entries()


def test_backups_beside_a_writer_are_each_of_one_moment(store: Store, root: Path, target: Path) -> None:
    store.close()
    child = os.fork()
    if child == 0:
        with Store.open(root) as writer:
            for number in range(25):
                commit(writer, "edit", record_of(f"n{number}"), facts=[fact(f"n{number}")])
        os._exit(0)
    lengths = []
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        copied = backup(root, target)
        lengths.append(len(sound_entries(target)))
        assert lengths[-1] == copied.entries
    backup(root, target)
    assert sound_entries(target) == sound_entries(root) and len(sound_entries(root)) == 33
    assert lengths == sorted(lengths) and len(set(lengths)) > 1, "no backup was taken while the writer wrote"


def test_the_journal_of_a_dead_writer_never_meets_a_new_ledger(store: Store, root: Path, target: Path) -> None:
    backup(root, target)
    commit(store, "tag", tag="later", target=0)
    leave_a_hot_journal(target / "ledger.db")
    backup(root, target)
    assert sound_entries(target) == store.ledger.entries()


def test_the_source_of_a_dead_writer_must_be_opened_first(store: Store, root: Path, target: Path) -> None:
    store.close()
    leave_a_hot_journal(root / "ledger.db")
    with pytest.raises(StoreError, match="Open the store for writing once"):
        backup(root, target)
    Store.open(root).close()
    backup(root, target)
    assert sound_entries(target) == sound_entries(root)


def test_what_the_source_lacks_is_named_and_the_earlier_backup_kept(store: Store, root: Path, target: Path) -> None:
    backup(root, target)
    earlier = sound_entries(target)
    entry = commit(store, "edit", record_of("d"), facts=[fact("d")])
    assert entry.record is not None
    store.objects.path(entry.record).write_bytes(b"rotten")
    with pytest.raises(StoreCorrupt, match=f"entry 8: object {entry.record}"):
        backup(root, target)
    assert sound_entries(target) == earlier


def test_an_old_store_is_copied_as_it_is(tmp_path: Path, target: Path) -> None:
    root = old_store(tmp_path / "old")
    before = contents(root)
    backup(root, target)
    with Store.open(target, read_only=True) as store:
        assert store.ledger.format == 1
    backup(root, target)
    assert contents(root) == before and sound_entries(target) == sound_entries(root)


@pytest.mark.parametrize("copy", [backup, clone])
def test_a_destination_that_will_not_do_is_refused(
    store: Store, root: Path, target: Path, tmp_path: Path, copy: Callable[[Path, Path], Copied]
) -> None:
    target.mkdir()
    (target / "thesis.tex").write_text("dear")
    before = contents(tmp_path)
    for destination, said in [(target, "not empty"), (root, "outside"), (root / "cache" / "copy", "outside")]:
        with pytest.raises(StoreError, match=said):
            copy(root, destination)
    with pytest.raises(StoreError, match="no store"):
        copy(tmp_path / "none", tmp_path / "new")
    assert contents(tmp_path) == before


def test_a_backup_in_use_is_left_alone(root: Path, target: Path) -> None:
    backup(root, target)
    with Store.open(target), pytest.raises(StoreBusy):
        backup(root, target)


def test_the_ledger_arrives_when_all_it_names_is_durable(
    store: Store, root: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt, entries, seen = copies.adopt_file, store.ledger.entries(), []

    def adopting(finished: Path, path: Path) -> None:
        seen.extend(ObjectStore(target / "objects").get(entry.record) for entry in entries if entry.record)
        assert not path.exists()
        adopt(finished, path)

    monkeypatch.setattr(copies, "adopt_file", adopting)
    backup(root, target)
    assert len(seen) == 5
