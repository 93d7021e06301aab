"""The pairs kept for the next open: used when they are right, ignored when they are not, never needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel import state as layers
from lifelong_edit.kinds.kernel.cache import NAME
from lifelong_edit.store.objects import decode, encode
from tests.engine.editors import EVERY_KIND, KINDS, WORK, base_model, digest, edited, live, lived_in
from tests.obstacles import endless, never_waiting
from tests.reliability.damage import flipped
from tests.samples import REQUESTS

NEXT = EditRequest("{} lies in", "Tarsis", "Oran", id="tarsis")


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every batch that is solved."""
    seen: list[int] = []
    plain = layers.append

    def append(columns: Any, *rest: Any) -> Any:
        seen.append(len(columns))
        return plain(columns, *rest)

    monkeypatch.setattr(layers, "append", append)
    return seen


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A closed store with two batches, the digest of its weights, and the digest after one more edit."""
    root = tmp_path_factory.mktemp("cache") / "store"
    with edited(root, [REQUESTS[:3], [WORK, REQUESTS[3]]]) as editor:
        before = digest(editor)
    copy = shutil.copytree(root, root.with_name("copy"))
    with LifelongEditor.open(copy, base_model()) as editor:
        editor.apply([NEXT])
        after = digest(editor)
    return root, before, after


@EVERY_KIND
def test_the_next_open_solves_nothing(kind: dict[str, Any], tmp_path: Path, solved: list[int]) -> None:
    with lived_in(tmp_path / "store", **kind) as editor:
        before, head = live(editor), digest(editor)
    solved.clear()
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        assert solved == []
        assert live(editor).equal(before)
        editor.revert(to="alone")
        assert editor.verify(replay=True).problems == ()
    shutil.rmtree(tmp_path / "store" / "cache")
    solved.clear()
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        assert solved != []
        editor.revert(to=len(editor.history()) - 2)
        assert digest(editor) == head and live(editor).equal(before)


def test_pairs_are_kept_by_who_computed_them_and_may_write(tmp_path: Path, solved: list[int]) -> None:
    edited(tmp_path / "store", [REQUESTS[:2]]).close()
    cache = tmp_path / "store" / "cache" / NAME
    kept = cache.stat().st_mtime_ns
    LifelongEditor.open(tmp_path / "store", base_model()).close()
    assert cache.stat().st_mtime_ns == kept  # nothing was computed anew
    shutil.rmtree(cache.parent)
    LifelongEditor.open(tmp_path / "store", base_model(), read_only=True).close()
    LifelongEditor.open(tmp_path / "store").close()
    assert not cache.parent.exists()
    LifelongEditor.open(tmp_path / "store", base_model()).close()
    assert cache.exists()


def test_a_cache_that_cannot_be_written_is_told_of_and_missed_by_nobody(tmp_path: Path) -> None:
    editor = edited(tmp_path / "store", [REQUESTS[:2]])
    shutil.rmtree(tmp_path / "store" / "cache")
    (tmp_path / "store" / "cache").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be kept"):
        editor.close()
    (tmp_path / "store" / "cache").unlink()
    with LifelongEditor.open(tmp_path / "store", base_model()) as again:
        assert live(again).equal(live(editor))


def with_pairs(change: Callable[[np.ndarray[Any, Any]], None]) -> Callable[[bytes], bytes]:
    """Another hand changes a tensor and leaves the rest of the file as it was."""

    def changed(data: bytes) -> bytes:
        tensors, meta = decode(data)
        change(tensors["transformer.h.0.mlp.c_proj.weight/left"])
        return encode(tensors, meta)

    return changed


def last_bit(tensor: np.ndarray[Any, Any]) -> None:
    """The bit that no float32 weight shows."""
    tensor[0, 0] = np.nextafter(tensor[0, 0], np.inf)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[:-100],
    "longer": lambda data: data + b"\0",
    "no file of ours": lambda _: b"not a tensor in sight",
    "a bit of the header": lambda data: flipped(data, 8 * 40),
    "a high bit": lambda data: flipped(data, 8 * len(data) - 2),
    "a low bit": lambda data: flipped(data, 8 * (len(data) - 8)),
    "the last bit of a value": with_pairs(last_bit),
    "a value doubled": with_pairs(lambda tensor: np.multiply(tensor, 2, out=tensor)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_ignored(
    damage: Callable[[bytes], bytes], sound: tuple[Path, str, str], tmp_path: Path, solved: list[int]
) -> None:
    root, before, after = sound
    store = shutil.copytree(root, tmp_path / "store")
    cache = store / "cache" / NAME
    cache.write_bytes(damage(cache.read_bytes()))
    with LifelongEditor.open(store, base_model()) as editor:
        assert solved == [3, 1]  # the value of ada and work stands in the place of the first batch
        assert digest(editor) == before
        editor.apply([NEXT])
        assert digest(editor) == after
        assert editor.verify(replay=True).problems == ()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, endless, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_cache_at_all_is_ignored(
    make: Callable[[Path], object], sound: tuple[Path, str, str], tmp_path: Path, solved: list[int]
) -> None:
    store = shutil.copytree(sound[0], tmp_path / "store")
    cache = store / "cache" / NAME
    cache.rename(cache.with_name("elsewhere"))
    make(cache)
    with never_waiting(), LifelongEditor.open(store, base_model(), read_only=True) as editor:
        assert solved == [3, 1] and digest(editor) == sound[1]


def test_a_forged_cache_that_leads_elsewhere_is_ignored(sound: tuple[Path, str, str], tmp_path: Path) -> None:
    """Pairs with a name and a digest that fit, of another history."""
    root, before, after = sound
    with edited(tmp_path / "other", [REQUESTS[1:4], [WORK, REQUESTS[0]]]) as editor:
        assert digest(editor) != before
    other = decode((tmp_path / "other" / "cache" / NAME).read_bytes())
    store = shutil.copytree(root, tmp_path / "store")
    cache = store / "cache" / NAME
    meta = decode(cache.read_bytes())[1]
    cache.write_bytes(encode(other[0], {**other[1], "weights": meta["weights"], "batches": meta["batches"]}))
    with LifelongEditor.open(store, base_model()) as editor:
        assert editor._session.head.recorded == before and editor.verify(replay=True).notes == ()
        editor.apply([NEXT])
        assert digest(editor) == after


@pytest.mark.parametrize("kind", [KINDS["joint-base-1"], KINDS["batch-live-1"]], ids=["joint", "batch"])
def test_a_stale_cache_is_ignored(kind: dict[str, Any], tmp_path: Path, solved: list[int]) -> None:
    edited(tmp_path / "store", [REQUESTS[:2]], **kind).close()
    stale = (tmp_path / "store" / "cache" / NAME).read_bytes()
    for change in (lambda e: e.apply(REQUESTS[2:4]), lambda e: e.revert("ada"), lambda e: e.apply([WORK])):
        with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
            change(editor)
            expected = live(editor)
        (tmp_path / "store" / "cache" / NAME).write_bytes(stale)
        solved.clear()
        with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
            assert live(editor).equal(expected) and solved != []


def test_a_link_in_the_caches_place_is_not_followed(tmp_path: Path) -> None:
    editor = edited(tmp_path / "store", [REQUESTS[:2]])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store" / "cache").rmdir()
    (tmp_path / "store" / "cache").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="could not be kept"):
        editor.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []
