"""A store that format 1 left behind, its model beside it: it opens, is sound, rolls back and takes edits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.state.provenance import software
from lifelong_edit.facts import EditRequest
from tests.store.stores import FORMAT_1, old_store

MODEL = FORMAT_1.parent / "model"
OTHER = EditRequest("{} lives in", "Ada Quill", "Oran", id="other")  # in the slot of "ada"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return old_store(tmp_path / "store")


def made_here(editor: LifelongEditor) -> bool:
    """Where bits can be compared: with the kind of processor and as many threads as format 1's entries tell of."""
    recorded, here = editor.history()[1].body["versions"], software()
    return all(recorded[name] == here[name] for name in ("machine", "threads"))


def test_it_is_sound(root: Path) -> None:
    with LifelongEditor.open(root, MODEL) as editor:
        audit = editor.verify(replay=True, keys=True)
        assert audit.problems == () and audit.rebuilt == 4
        assert audit.notes == () or not made_here(editor)
        assert audit.largest_difference < 1e-9 and max(audit.key_drift.values()) < 1e-5
        assert {id: fact.status for id, fact in editor.facts().items() if fact.status != "active"} == {"bo": "reverted"}
        assert "base model" not in {finding.about for finding in editor.doctor()}  # it has no probes


def test_every_fact_of_it_has_a_column_that_comes_and_goes(root: Path) -> None:
    with LifelongEditor.open(root, MODEL) as editor:
        states = {entry.seq: editor.at(entry.seq).editable.weight(0) for entry in editor.history()}
        for seq in (3, 2, 1, 4):
            assert editor.revert(to=seq).rewritten == ()
            assert torch.equal(editor.editable.weight(0), states[seq])
        editor.restore("bo")
        editor.revert("ada", "bo", "kessel")
        assert editor.verify(replay=True).problems == ()


def test_a_new_fact_of_an_old_slot_shares_its_column(root: Path) -> None:
    with LifelongEditor.open(root, MODEL) as editor:
        before = editor.editable.weight(0)
        commit = editor.apply([OTHER])
        assert commit.entry is not None and commit.entry.body["columns"] == [["ada", "other"]]
        assert editor.apply([OTHER]).skipped == ("other",)
        editor.revert("other")
        assert torch.equal(editor.editable.weight(0), before)
        editor.restore("other")
        assert editor.revert("ada").rewritten == ("other",)
    with LifelongEditor.open(root, MODEL, read_only=True) as reader:
        assert reader.verify(replay=True).problems == ()
