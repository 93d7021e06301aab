"""A store that format 1 left behind, its model beside it: it opens, is sound, rolls back and takes edits."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.state.session import software
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.tokens import encode
from lifelong_edit.tracking.scores import score_continuations
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
        assert editor.settings.statistics.outlier is None and editor.settings.recipe.pool == 0  # as it was made
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


@pytest.mark.parametrize(
    "store", [FORMAT_1, FORMAT_1.parents[1] / "format-2" / "store"], ids=lambda path: path.parent.name
)
def test_it_keeps_the_text_rule_it_was_made_with(store: Path, tmp_path: Path) -> None:
    blank = EditRequest("Home of {}:\n", "Ada Quill", " Oran", id="blank")
    plain = EditRequest("Home of {}:", "Ada Quill", "Oran", id="blank")
    with LifelongEditor.open(shutil.copytree(store, tmp_path / "store"), MODEL) as editor:
        editable, pairs = editor.editable, [(request.question, request.target_new) for request in (blank, plain)]
        assert encode(editable.texts, blank) == encode(editable.texts, plain)
        assert encode(editable.texts, plain) == encode(editable.tokenizer, plain)
        one, other = score_continuations(editable.model, editable.texts, pairs)
        assert one == other
        head = editor.at(editor.history()[-1].seq)
        assert head.answer(blank.question) == head.answer(plain.question)
        # Which ids and contents are known does not change with an upgrade.
        editor.apply([blank])
        assert editor.apply([plain]).skipped == ("blank",)
        unnamed = [
            replace(request, prompt="Town of {}:" + end, id=None) for request, end in ((plain, ""), (blank, " "))
        ]
        (made,) = editor.apply(unnamed[:1]).facts
        assert editor.apply(unnamed[1:]).skipped == (made.id,)
