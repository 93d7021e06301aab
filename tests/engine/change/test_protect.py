"""Protected facts of the base: columns that ask for no change and so hold their place against later edits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from tests.samples import REQUESTS, lively_editable, new_editor

WORK = EditRequest("{} works in the town of", "Ada Quill", "Oran", id="work")  # in the slot of REQUESTS[0]


@pytest.mark.parametrize("targets", ["base", "live"])
def test_without_a_ridge_later_edits_do_not_move_a_protected_value(targets: str, tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable("gpt2"), targets=targets) as editor:
        commit = editor.protect(REQUESTS[:2], method="emmet")
        assert commit.entry is not None and commit.entry.weights == editor.history()[0].body["base_weights"]
        assert commit.entry.body["loss"] == [0.0, 0.0] and commit.entry.body["steps"] == [0, 0]
        editor.apply(REQUESTS[2:], method="emmet")
        layer = editor.state.layers[0]
        keys, base = layer.whole.keys, layer.base.double()
        moved = ((layer.weight - base) @ keys).norm(dim=0) / (base @ keys).norm(dim=0)
        assert (moved[:2] < 1e-9).all() and (moved[2:] > 1e-3).all()
        assert [fact.protected for fact in editor.facts().values()] == [True] * 2 + [False] * 4


def test_a_later_edit_about_a_protected_subject_shares_its_slot(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable("gpt2"), targets="base") as editor:
        protected = editor.protect(REQUESTS[:1]).entry
        commit = editor.apply([WORK])
        assert commit.entry is not None and commit.entry.body["columns"] == [["ada", "work"]]
        assert commit.entry.body["steps"][0] > 0
        reverted = editor.revert("work").entry
        assert protected is not None and reverted is not None and reverted.weights == protected.weights
        assert editor.verify(replay=True).problems == ()


def test_protection_can_be_taken_out_like_an_edit(tmp_path: Path) -> None:
    with (
        new_editor(tmp_path / "with", lively_editable("gpt2"), targets="base") as editor,
        new_editor(tmp_path / "without", lively_editable("gpt2"), targets="base") as plain,
    ):
        editor.protect(REQUESTS[:2])
        editor.apply(REQUESTS[2:])
        plain.apply(REQUESTS[2:])
        held = editor.editable.weight(0)
        editor.revert("ada", "emile")
        assert not torch.equal(held, editor.editable.weight(0))
        assert torch.equal(plain.editable.weight(0), editor.editable.weight(0))


def test_batch_memory_cannot_protect(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable("gpt2"), memory="batch") as editor:
        with pytest.raises(RequestError, match="joint memory"):
            editor.protect(REQUESTS[:2])
        assert len(editor.history()) == 1
