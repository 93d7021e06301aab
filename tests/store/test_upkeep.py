"""What no entry needs can be removed at any moment, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lifelong_edit.errors import StoreCorrupt, StoreError, StoreReadOnly
from lifelong_edit.store import (
    GENESIS,
    ObjectStore,
    Store,
    clear_cache,
    collect_garbage,
    inspect,
    list_cache,
    list_strays,
)
from tests.store.stores import COMMON, contents, fill, record_of, tampered

NAME = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store") as store:
        fill(store)
        yield store


def litter(store: Store) -> dict[Path, int]:
    """Everything a crash can leave: to each file its size."""
    objects, statistics = store.layout.objects, store.layout.statistics
    unneeded = {
        store.objects.path(store.objects.put(b"uncommitted")): 11,
        ObjectStore(statistics).path(ObjectStore(statistics).put(b"of another text")): 15,
        objects / "ab" / f"{NAME}.safetensors.{'0' * 16}.tmp": 1,
        statistics / f"{NAME}.partial": 2,
        statistics / f"{NAME}.partial.{'0' * 16}.tmp": 3,
        store.layout.cache / f"head.safetensors.{'0' * 16}.tmp": 4,
        store.layout.cache / f"ledger.db.{'0' * 16}.tmp-journal": 5,
    }
    for path, size in list(unneeded.items())[2:]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * size)
    return unneeded


def test_what_crashes_leave_is_listed_and_removed_and_nothing_else(store: Store) -> None:
    sound = set(contents(store.layout.root))
    litter_of_others = [
        store.layout.objects / "README",
        store.layout.statistics / "notes.safetensors",
        store.layout.cache / "head.safetensors",
        store.layout.cache / "notes.tmp",
    ]
    for path in litter_of_others:
        path.write_text("kept")
    unneeded = litter(store)
    listed = list_strays(store)
    assert {stray.path: stray.size for stray in listed} == unneeded
    assert inspect(store).strays == listed == collect_garbage(store)
    assert not any(path.exists() for path in unneeded) and all(path.exists() for path in litter_of_others)
    assert sound <= set(contents(store.layout.root))
    assert list_strays(store) == collect_garbage(store) == () and inspect(store).problems == ()


def test_what_lies_behind_a_link_is_not_ours(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{NAME}.safetensors").write_text("precious")
    (store.layout.objects / "ab").symlink_to(outside)
    store.layout.cache.rmdir()
    store.layout.cache.symlink_to(outside)
    assert collect_garbage(store) == clear_cache(store) == ()
    assert (outside / f"{NAME}.safetensors").read_text() == "precious"


@pytest.mark.parametrize("survivors", range(8))
def test_a_removal_that_ends_halfway_is_just_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch, survivors: int
) -> None:
    unneeded, unlink = litter(store), Path.unlink

    def failing(path: Path, missing_ok: bool = False) -> None:
        if sum(path.exists() for path in unneeded) == survivors:
            raise OSError(5, "Input/output error")
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing)
        if survivors:
            with pytest.raises(StoreError, match=r"removing .*Input/output error"):
                collect_garbage(store)
        else:
            collect_garbage(store)
    assert sum(path.exists() for path in unneeded) == survivors and inspect(store).problems == ()
    assert len(collect_garbage(store)) == survivors and list_strays(store) == ()


def test_only_who_may_write_removes(store: Store) -> None:
    unneeded = litter(store)
    with Store.open(store.layout.root, read_only=True) as reader:
        assert len(list_strays(reader)) == len(unneeded)
        for remove in (collect_garbage, clear_cache):
            with pytest.raises(StoreReadOnly):
                remove(reader)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        collect_garbage(store)
    assert all(path.exists() for path in unneeded)


def test_a_damaged_ledger_says_nothing_about_what_is_needed(store: Store) -> None:
    litter(store)
    tampered(store.layout.ledger, "UPDATE entries SET body = replace(body, 'Ada', 'Eve') WHERE seq = 1")
    before = contents(store.layout.objects)
    with pytest.raises(StoreCorrupt, match="entry 1"):
        collect_garbage(store)
    assert contents(store.layout.objects) == before and inspect(store).strays == ()


def test_the_ledger_on_disk_decides_not_what_was_read_before(store: Store) -> None:
    litter(store)
    list_strays(store)
    data = b"uncommitted"
    entry = store.commit("measure", COMMON, data, {}, inspect(store).head)
    assert entry.record is not None
    removed = {stray.path for stray in collect_garbage(store)}
    assert store.objects.path(entry.record) not in removed and store.objects.get(entry.record) == data


def test_a_creation_that_will_go_on_keeps_what_it_collected(tmp_path: Path) -> None:
    with Store.create(tmp_path / "new") as store:
        unneeded = litter(store)
        temporary = {path for path in unneeded if ".tmp" in path.name}
        assert {stray.path for stray in collect_garbage(store)} == temporary
        store.commit("init", COMMON, record_of("a").to_bytes(), {}, GENESIS)
        assert {stray.path for stray in collect_garbage(store)} == set(unneeded) - temporary


def test_the_cache_is_removed_on_its_own(store: Store) -> None:
    litter(store)
    (store.layout.cache / "inner").mkdir()
    for path in (store.layout.cache / "a", store.layout.cache / "inner" / "b"):
        path.write_bytes(b"four")
    listed = list_cache(store)
    collected = set(collect_garbage(store))
    assert len(collected) == 7 and set(listed) & collected and set(list_cache(store)) == set(listed) - collected
    assert [(stray.path.name, stray.size) for stray in clear_cache(store)] == [("a", 4), ("b", 4)]
    assert list_cache(store) == ()
