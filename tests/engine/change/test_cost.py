"""What an edit costs among older facts is told at once, and kept where a store without its model can read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lifelong_edit.cli.text import commit_line, commit_text
from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine import LifelongEditor, Reader
from tests.engine.editors import MEMORIES, base_model, new_editor
from tests.samples import REQUESTS

MORE = [
    replace(one, subject=name, id=f"{one.id} of {name}") for one in REQUESTS[:2] for name in ("Bo Quill", "Uma Torn")
]


def said(editor: LifelongEditor) -> set[str]:
    """The active facts that the live model says."""
    facts = editor.standing.history.active
    return {id for id, score in zip(facts, editor.scores()[EFFICACY].each, strict=True) if score}


@pytest.mark.filterwarnings("ignore:.*do not hold")
@pytest.mark.parametrize("memory", MEMORIES)
def test_the_facts_that_an_edit_costs_are_told(memory: str, tmp_path: Path) -> None:
    lost: set[str] = set()
    with new_editor(tmp_path / "store", base_model(), memory=memory) as editor:
        for request in (*REQUESTS, *MORE):
            before = said(editor)
            commit = editor.apply([request])
            after = said(editor)
            assert commit.entry is not None and set(commit.cost) == before - after
            assert commit.entry.body.get("cost", []) == list(commit.cost)
            assert {request.id} - after == set(commit.failed) == set(commit.entry.body.get("failed", ()))
            assert ("said no longer" in commit_line(commit)) == bool(commit.cost)
            assert ("older, said no longer" in commit_text(commit, "edit", editor.facts())) == bool(commit.cost)
            assert set(commit.cost) <= editor.unsaid().keys()
            lost |= set(commit.cost)
        assert lost
        asked = editor.measure()
        assert editor.unsaid() == {id: asked.seq for id in editor.facts() if id not in after}
        assert {id for id, risk in editor.risks().items() if risk >= 1} >= editor.unsaid().keys()
    with Reader.open(tmp_path / "store") as reader:
        assert reader.unsaid().keys() == reader.facts().keys() - after


def test_only_the_facts_that_are_moved_most_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifelong_edit.engine.change.commit.PROBED", 0)
    with new_editor(tmp_path / "store", base_model()) as editor:
        assert [editor.apply([request]).cost for request in (*REQUESTS, *MORE)] == [()] * 10
