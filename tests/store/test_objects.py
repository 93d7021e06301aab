"""An object is read back whole and unchanged, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong_edit.errors import StoreCorrupt, StoreError, StoreReadOnly
from lifelong_edit.store import ObjectStore
from lifelong_edit.store.objects import replace_file

DATA = b"sixteen bytes..."


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    root = tmp_path / "objects"
    root.mkdir()
    return ObjectStore(root)


def test_what_is_put_is_got(objects: ObjectStore) -> None:
    digest = objects.put(DATA)
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert objects.get(digest) == DATA and objects.has(digest)
    assert objects.put(DATA) == digest
    assert [path for path in objects.root.rglob("*") if path.is_file()] == [objects.path(digest)]


def test_every_flipped_bit_and_every_truncation_is_refused(objects: ObjectStore) -> None:
    digest = objects.put(DATA)
    path = objects.path(digest)
    flipped = [bytes(b ^ (1 << bit) * (i == at) for i, b in enumerate(DATA)) for at in range(16) for bit in range(8)]
    damaged = flipped + [DATA[:length] for length in range(len(DATA))] + [DATA + b"\0"]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(StoreCorrupt, match=digest):
            objects.get(digest)
    assert len(damaged) == 128 + 16 + 1


def test_a_damaged_object_is_healed_by_putting_it_again(objects: ObjectStore) -> None:
    digest = objects.put(DATA)
    objects.path(digest).write_bytes(b"torn")
    objects.put(DATA)
    assert objects.get(digest) == DATA


def test_a_missing_object_is_named(objects: ObjectStore) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    assert not objects.has(digest)
    with pytest.raises(StoreCorrupt, match=digest):
        objects.get(digest)


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_symbolic_link_is_refused_though_its_bytes_are_right(objects: ObjectStore, tmp_path: Path, link: str) -> None:
    digest = objects.put(DATA)
    inside = objects.path(digest) if link == "file" else objects.path(digest).parent
    outside = tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(StoreCorrupt, match=digest):
        objects.get(digest)


def test_a_link_in_the_place_of_a_folder_is_not_written_through(objects: ObjectStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    objects.path(hashlib.sha256(DATA).hexdigest()).parent.symlink_to(outside)
    with pytest.raises(StoreError):
        objects.put(DATA)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("place", ["folder", "fifo"])
def test_what_is_no_file_is_refused_without_waiting(objects: ObjectStore, place: str) -> None:
    digest = objects.put(DATA)
    path = objects.path(digest)
    path.unlink()
    path.mkdir() if place == "folder" else os.mkfifo(path)
    with pytest.raises(StoreError):
        objects.get(digest)


@given(st.text() | st.sampled_from(["../" * 21 + "a", "a" * 63, "A" * 64, "a" * 64 + "\n", "/" * 64, "٣" * 64]))
def test_a_hostile_digest_never_becomes_a_path(digest: str) -> None:
    objects = ObjectStore(Path("nowhere"))
    for use in (objects.path, objects.get, objects.has):
        with pytest.raises(StoreCorrupt):
            use(digest)


def test_a_failed_write_leaves_nothing_and_names_the_file(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    digest = hashlib.sha256(DATA).hexdigest()
    objects.path(digest).parent.mkdir()
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StoreError, match=rf"writing .*{digest}.*No space left"):
        objects.put(DATA)
    assert not list(objects.path(digest).parent.iterdir())


def test_a_read_only_file_system_is_told_apart(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_args: object, **_kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(StoreReadOnly):
        objects.put(DATA)


def test_file_and_both_folders_reach_the_disk_before_put_returns(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    for _ in range(2):  # also when the object is there already: its writer may have died before its own fsync
        synced.clear()
        path = objects.path(objects.put(DATA))
        assert synced[0] == str(path.parent.parent) and synced[2] == str(path.parent)
        assert synced[1].startswith(f"{path}.") and len(synced) == 3


def test_a_file_is_replaced_whole_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    replace_file(path, b"old")
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="No space left"):
        patch.setattr(os, "fsync", full)
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]
