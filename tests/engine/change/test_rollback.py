"""Rollback is never lost: whatever the condition of the system, facts come out again and the base comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit import methods
from lifelong_edit.algebra.system import Pair
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel import state
from lifelong_edit.model.editable import EditableModel
from tests.engine.editors import MEMORIES, assert_close, base_model, digest, live, new_editor, sum_of_deltas
from tests.samples import REQUESTS

CLOSE = [EditRequest("{} was born in", name, "Marn", id=name) for name in ("Ada Quill", "Eda Quill", "Uma Quill")]
HUGE = 1e308


def crowding_model() -> EditableModel:
    """A model that hardly looks back at what stands before a token, so that alike subjects have alike keys."""
    editable = base_model()
    with torch.no_grad():
        for parameter in editable.block(0).attn.c_proj.parameters():
            parameter.mul_(0.1)
    return editable


@pytest.fixture(params=MEMORIES)
def ill(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LifelongEditor:
    """A store of facts with close keys and no ridge, and one with a ridge beyond bounds, as was possible once."""
    monkeypatch.setattr(methods, "MOST", float("inf"), raising=False)
    editor = new_editor(tmp_path / "store", crowding_model(), memory=request.param, amplification_limit=1e9)
    for fact in CLOSE:
        editor.apply([fact], method="emmet")
    editor.apply([REQUESTS[2]], ridge=HUGE)
    return editor


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("share", [1e-7, 1e7, 1e300])
def test_a_ridge_that_would_spoil_the_system_is_refused(memory: str, share: float, tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", base_model(), memory=memory) as editor:
        mass = editor.history()[0].body["calibration"]["0"]
        with pytest.raises(RequestError, match="1e-06 to 1e\\+06 times the mean key mass"):
            editor.apply(REQUESTS[:1], ridge=share * mass)
        for bound in (0.0, 1.01e-6 * mass, 0.99e6 * mass):
            assert editor.apply([REQUESTS[int(bound > 0) + int(bound > 1)]], ridge=bound).entry
    with pytest.raises(RequestError, match="mean key mass"):
        new_editor(tmp_path / "other", base_model(), memory=memory, ridge=share)


@pytest.mark.parametrize("gone", [("Ada Quill",), ("bo",), ("Eda Quill", "bo")])
def test_a_revert_works_where_the_system_cannot_be_solved(ill: LifelongEditor, gone: tuple[str, ...]) -> None:
    with ill as editor:
        kept = [editor.facts()[id] for id in editor.facts() if id not in gone]
        editor.revert(*gone)
        assert list(editor.standing.history.active) == [fact.id for fact in kept]
        editor.verify(replay=True).check()
        recorded = sum_of_deltas(editor.store.layout.root)
        base = base_model().weight(0).double()
        assert_close(base + recorded, live(editor), base, 1e-5)


def test_all_facts_come_out_and_the_base_is_back(ill: LifelongEditor) -> None:
    with ill as editor:
        editor.revert(to=0)
        assert digest(editor) == editor.history()[0].body["base_weights"] and not editor.standing.history.active
        editor.verify(replay=True).check()


@pytest.mark.parametrize("memory", MEMORIES)
def test_when_what_is_left_cannot_be_solved_the_way_back_is_told(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_editor(tmp_path / "store", base_model(), memory=memory) as editor:
        for fact in REQUESTS[:3]:
            editor.apply([fact])
        solves: Any = state.append

        def refusing(columns: Any, *rest: Any) -> Pair:
            if "emile" in columns.names:
                raise SolveError("the system of the batch is singular at 'emile'.")
            pair: Pair = solves(columns, *rest)
            return pair

        monkeypatch.setattr(state, "append", refusing)
        with pytest.raises(SolveError, match=r"singular at 'emile'.*to=0"):
            editor.revert("ada")
        editor.revert(to=0)
        assert digest(editor) == editor.history()[0].body["base_weights"]
