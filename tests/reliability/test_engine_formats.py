"""A store of every format so far opens, is sound, rolls back and takes an edit; one of a later format is refused."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import Store
from lifelong_edit.store.schema import FORMAT
from tests.reliability.audit import contents

pytestmark = pytest.mark.reliability
DATA = Path(__file__).parents[1] / "data"
MODEL = DATA / "format-1" / "model"  # of both stores
KINDS = {
    1: ["init", "edit", "edit", "revert", "edit"],
    2: ["init", "edit", "edit", "revert", "restore", "replace", "tag", "protect", "revert", "measure", "edit"],
}
ACTIVE = {1: {"ada", "emile", "norvik", "ana", "kessel"}, 2: {"ada lives", "bo", "norvik", "ana", "kessel"}}
NEW = EditRequest("{} lies in", "Tarsis", "Oran", id="tarsis")


@pytest.fixture(params=sorted(KINDS))
def format(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def root(format: int, scratch: Path) -> Path:
    """A copy of the store that a version with this format left behind."""
    return Path(shutil.copytree(DATA / f"format-{format}" / "store", scratch / "store"))


def test_every_format_has_a_frozen_store() -> None:
    assert sorted(KINDS) == list(range(1, FORMAT + 1))
    assert {path.name for path in DATA.glob("format-*")} == {f"format-{number}" for number in KINDS}


def test_a_frozen_store_is_read_without_a_byte_changed(format: int, root: Path) -> None:
    before = contents(root)
    with LifelongEditor.open(root, MODEL, read_only=True) as editor:
        assert [entry.kind for entry in editor.history()] == KINDS[format]
        active = {fact.id for fact in editor.facts().values() if fact.status == "active"}
        assert active >= ACTIVE[format] and len(active) - len(ACTIVE[format]) == (format == 2)  # the replacement
        found = editor.verify(replay=True, keys=True)
        found.check()
        assert found.notes == () and max(found.key_drift.values()) < 1e-5
        head = editor.history()[0].body["base_weights"]
        with LifelongEditor.open(root) as history:
            assert history.history() == editor.history() and head == history.history()[0].body["base_weights"]
    assert contents(root) == before
    print(f"\nformat {format}: {found.rebuilt} states rebuilt bit for bit, keys differ by {found.key_drift}")


def test_a_frozen_store_goes_on(format: int, root: Path) -> None:
    with LifelongEditor.open(root, MODEL) as editor:
        known = editor.history()
        editor.apply([NEW])
        assert editor.revert("tarsis").entry is not None and editor.head.weights == known[-1].weights
        back = {seq: entry.weights for seq, entry in enumerate(known) if entry.weights}
        for seq in sorted(back, reverse=True)[1:]:
            assert editor.revert(to=seq).entry is not None and editor.head.weights == back[seq], seq
        editor.revert(to=0)
        assert editor.head.weights == known[0].body["base_weights"]
        editor.revert(to=known[-1].seq)
        assert editor.head.weights == known[-1].weights
        editor.restore("tarsis")
        assert editor.history()[: len(known)] == known
        editor.verify(replay=True).check()
    with LifelongEditor.open(root, MODEL) as again:
        assert again.facts()["tarsis"].status == "active"
    print(f"\nformat {format}: an edit, {len(back)} states and the base gone back to, digests as recorded")


@pytest.mark.parametrize("later", [FORMAT + 1, 99])
def test_a_later_format_is_refused(later: int, root: Path) -> None:
    with closing(sqlite3.connect(root / "ledger.db", isolation_level=None)) as db:
        db.execute(f"PRAGMA user_version = {later}")
    before = contents(root / "objects"), (root / "ledger.db").read_bytes()
    for read_only in (True, False):
        with pytest.raises(StoreCorrupt, match=r"newer version.*[Uu]pgrade"):
            LifelongEditor.open(root, MODEL, read_only=read_only)
    assert (contents(root / "objects"), (root / "ledger.db").read_bytes()) == before


def test_an_entry_of_a_later_kind_is_refused(root: Path) -> None:
    """A later version may bring a kind without a new format: what that did to the weights is unknown."""
    with Store.open(root) as store:
        entry = store.ledger.entries()[-1]
        common = {name: entry.body[name] for name in ("time", "actor", "reason", "versions", "seed")}
        store.commit("graft", common, None, {}, entry.digest)
    before = contents(root / "objects"), (root / "ledger.db").read_bytes()
    for model in (MODEL, None):
        with pytest.raises(StoreCorrupt, match="'graft' was made by a newer version"):
            LifelongEditor.open(root, model)
    assert (contents(root / "objects"), (root / "ledger.db").read_bytes()) == before
