"""An edit that ruins the model is refused, and a commit says which of its facts do not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lifelong_edit import EditRequest, LifelongEditor
from lifelong_edit.cli.text import commit_line, commit_text, summary
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.tracking.generation import answer
from tests.engine.editors import MEMORIES, base_model, edited, new_editor
from tests.reliability.audit import contents
from tests.samples import REQUESTS

ONE_PERSON = [
    EditRequest(prompt, "Ada Quill", target)
    for prompt, target in {
        "At home {} speaks": "Rethan",
        "The employer of {} is": "Woshuum",
        "By profession {} is a": "jeweller",
        "Friends hear {} talk in": "Hestic",
    }.items()
]


@pytest.mark.parametrize("memory", MEMORIES)
def test_four_facts_about_one_person_without_a_ridge_are_refused(memory: str, tmp_path: Path) -> None:
    settings = EditorSettings(memory=memory, target=TargetSettings(), contexts=1)
    with LifelongEditor.create(tmp_path / "store", "checkpoints/tiny-world", settings) as editor:
        before = contents(tmp_path / "store"), editor.head, editor.state.digest
        with pytest.raises(SolveError, match=r"times its norm \(limit 3: 1.5 times.*norm_limit"):
            editor.apply(ONE_PERSON, method="emmet")
        assert (contents(tmp_path / "store"), editor.head, editor.state.digest) == before
        assert editor.apply(ONE_PERSON).entry


@pytest.mark.parametrize("memory", MEMORIES)
def test_reverts_are_held_to_no_norm_limit(memory: str, tmp_path: Path) -> None:
    with edited(tmp_path / "store", memory=memory) as editor:
        editor.kind.settings = replace(editor.settings, norm_limit=1e-6)
        with pytest.raises(SolveError, match="times its norm"):
            editor.apply([EditRequest("{} was born in", "Uma Torn", "Oran")], method="emmet")
        editor.revert("ana")
        editor.revert(to=1)
        assert editor.kind.distances(editor.kind.base, editor.state).popitem()[1] > 1e-6


def test_a_norm_limit_is_positive_and_older_stores_have_none() -> None:
    with pytest.raises(RequestError, match="norm limit"):
        EditorSettings(norm_limit=0.0)
    written = EditorSettings(norm_limit=2.5).to_dict()
    assert EditorSettings.from_dict(written).norm_limit == 2.5
    del written["norm_limit"]
    assert EditorSettings.from_dict(written).norm_limit is None


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_commit_says_which_facts_the_model_does_not_say(memory: str, tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", base_model(), memory=memory) as editor:
        mass = editor.history()[0].body["calibration"]["0"]
        with pytest.warns(UserWarning, match="2 of the 2 facts of entry 1 do not hold"):
            commit = editor.apply(REQUESTS[:2], ridge=0.9e6 * mass)
        assert commit.entry is not None and commit.failed == ("ada", "emile")
        assert summary(commit.entry) == "0 of 2 facts said, not said: Ada Quill, Émile Zorn"
        assert summary(commit.entry) in commit_line(commit)
        shown = commit_text(commit, "edit", editor.facts())
        assert "2 facts not said" in shown and "written" not in shown
        scores = commit.entry.body["scores"]["rewrite/argmax"]
        later = editor.apply(REQUESTS[2:4], method="emmet")
        assert later.entry is not None
        scores = later.entry.body["scores"]["rewrite/argmax"]
        assert later.failed == tuple(id for id, score in scores.items() if not score)


def test_a_protected_fact_holds_while_the_answer_of_the_base_stands(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", base_model(), memory="joint") as editor:
        said = answer(editor.editable, REQUESTS[0].question)
        assert said != REQUESTS[0].target_new
        assert editor.protect(REQUESTS[:1]).failed == ()
        editor.apply([replace(REQUESTS[0], target_new="Kessel", id="moved")], method="emmet")
        other = replace(REQUESTS[0], prompt="{} was brought up in", id="other")
        gone = editor.protect([other])
        stands = answer(editor.editable, other.question) == answer(base_model(), other.question)
        assert gone.failed == (() if stands else ("other",))
