"""A commit is there whole, or the ledger is as it was."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.errors import RequestError, StoreBusy, StoreError, StoreReadOnly
from lifelong_edit.store import GENESIS, KernelRecord, Store

Bodies = Callable[..., dict[str, Any]]
CONTENT = "c" * 64


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store") as store:
        yield store


def test_a_commit_is_read_back_after_reopening(store: Store, edit_body: Bodies, edit_record: KernelRecord) -> None:
    entry = store.commit("edit", edit_body("f1", "f2"), edit_record.to_bytes(), {"f1": CONTENT}, GENESIS)
    store.close()
    for read_only in (False, True):
        with Store.open(store.layout.root, read_only) as again:
            assert again.ledger.entries() == [entry] and again.read_only is read_only
            assert entry.record is not None
            assert KernelRecord.from_bytes(again.objects.get(entry.record)).facts == ("f1", "f2")


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreBusy, MemoryError])
def test_an_error_between_object_and_ledger_leaves_the_ledger(
    store: Store, edit_body: Bodies, edit_record: KernelRecord, monkeypatch: pytest.MonkeyPatch, error: type
) -> None:
    first = store.commit("edit", edit_body("f0"), None, {"f0": CONTENT}, GENESIS)
    before = store.layout.ledger.read_bytes()

    def fail(*_args: object) -> None:
        raise error()

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(store.ledger, "_refuse_known", fail)
        store.commit("edit", edit_body("f1", "f2"), edit_record.to_bytes(), {"f1": CONTENT}, first.digest)
    assert store.layout.ledger.read_bytes() == before
    assert store.ledger.entries() == [first] and store.ledger.request("f1") is None
    entry = store.commit("edit", edit_body("f1", "f2"), edit_record.to_bytes(), {"f1": CONTENT}, first.digest)
    assert store.ledger.entries() == [first, entry]


def test_a_record_that_cannot_be_kept_leaves_the_ledger(
    store: Store, edit_body: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_data: bytes) -> str:
        raise StoreError("disk full")

    monkeypatch.setattr(store.objects, "put", fail)
    with pytest.raises(StoreError, match="disk full"):
        store.commit("edit", edit_body("f1"), b"bytes", {"f1": CONTENT}, GENESIS)
    assert store.ledger.head() is None


def test_the_object_is_there_before_the_ledger_speaks_of_it(
    store: Store, edit_body: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    put, append = store.objects.put, store.ledger.append
    monkeypatch.setattr(store.objects, "put", lambda data: (order.append("object"), put(data))[1])
    monkeypatch.setattr(store.ledger, "append", lambda *args: (order.append("ledger"), append(*args))[1])
    store.commit("edit", edit_body("f1"), b"bytes", {}, GENESIS)
    assert order == ["object", "ledger"]


def test_a_refused_commit_keeps_its_reason(store: Store, edit_body: Bodies) -> None:
    entry = store.commit("edit", edit_body("f1"), None, {"f1": CONTENT}, GENESIS)
    with pytest.raises(StoreBusy):
        store.commit("edit", edit_body("f2"), None, {}, GENESIS)
    with pytest.raises(RequestError):
        store.commit("edit", edit_body("f1"), None, {"f1": CONTENT}, entry.digest)
    store.commit("edit", edit_body("f2"), None, {"f2": CONTENT}, entry.digest)


def test_after_a_failed_fsync_nothing_is_tried_again(
    store: Store, edit_body: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls, root = os.fsync, [], store.layout.root
    store.close()

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == at:
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    for at in (1, 2, 3):  # the folder's, the file's, the inner folder's
        calls.clear()
        with Store.open(root) as failed:
            with pytest.raises(StoreError, match="Input/output error"):
                failed.commit("edit", edit_body("f1"), b"bytes", {}, GENESIS)
            with pytest.raises(StoreError, match=r"(?s)takes no commit any more.*Input/output error.*Open the store"):
                failed.check_writable()
            with pytest.raises(StoreError, match="takes no commit any more"):
                failed.commit("edit", edit_body("f1"), b"bytes", {}, GENESIS)
            assert len(calls) == at and failed.ledger.head() is None
    at = 0
    with Store.open(root) as again:
        assert again.commit("edit", edit_body("f1"), b"bytes", {}, GENESIS) == again.ledger.head()


def test_after_a_ledger_that_could_not_be_written_nothing_is_tried_again(store: Store, edit_body: Bodies) -> None:
    """The operating system refuses to let the ledger's file grow, in the middle of a commit."""
    first = store.commit("edit", edit_body("f1"), None, {}, GENESIS)
    large = {**edit_body("f2"), "filler": "x" * 200_000}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.layout.ledger.stat().st_size, hard))
    try:
        with pytest.raises(StoreError, match=r"ledger\.db"):
            store.commit("edit", large, None, {}, first.digest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(StoreError, match="takes no commit any more"):
        store.commit("edit", edit_body("f2"), None, {}, first.digest)
    store.close()
    with Store.open(store.layout.root) as again:
        assert again.ledger.entries() == [first]
        assert again.commit("edit", large, None, {}, first.digest) == again.ledger.head()


def test_one_writes_and_others_read(store: Store, edit_body: Bodies) -> None:
    with pytest.raises(StoreBusy, match="process"):
        Store.open(store.layout.root)
    with Store.open(store.layout.root, read_only=True) as reader:
        with pytest.raises(StoreReadOnly):
            reader.commit("edit", edit_body("f1"), b"bytes", {}, GENESIS)
        entry = store.commit("edit", edit_body("f1"), None, {}, GENESIS)
        assert reader.ledger.head() == entry
    assert not list(store.layout.objects.iterdir())


def test_the_folder_is_laid_out(store: Store) -> None:
    names = {path.name for path in store.layout.root.iterdir()}
    assert names == {"ledger.db", "objects", "statistics", "cache", "lock"}


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        Store.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_is_not_created_twice_unless_nothing_was_committed(store: Store, edit_body: Bodies) -> None:
    root = store.layout.root
    store.close()
    with Store.create(root) as again:
        again.commit("edit", edit_body("f1"), None, {}, GENESIS)
    with pytest.raises(StoreError, match="already"):
        Store.create(root)
    Store.open(root).close()  # the refusal gave the lock back


def test_a_missing_store_is_an_error_and_stays_missing(tmp_path: Path) -> None:
    for root in (tmp_path / "none", tmp_path):
        for read_only in (False, True):
            with pytest.raises(StoreError, match="no store"):
                Store.open(root, read_only)
    assert not list(tmp_path.iterdir())


def test_a_reason_that_is_no_unicode_is_the_users_mistake_and_the_next_commit_goes_on(
    tmp_path: Path, edit_body: Callable[..., dict[str, Any]]
) -> None:
    with Store.create(tmp_path / "store") as store:
        with pytest.raises(RequestError, match="cannot be written"):
            store.commit("edit", {**edit_body("x"), "reason": "lone \ud800"}, None, {}, GENESIS)
        assert store.commit("edit", edit_body("x"), None, {}, GENESIS).seq == 0
