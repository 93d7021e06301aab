"""When a stream relaxes: after so many edits, once one costs older facts, and at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.change import commit as committing
from lifelong_edit.engine.change.commit import Commit
from lifelong_edit.world.requests import edit_requests
from tests.engine.change.test_refit import LARGE, TINY, WORLD
from tests.engine.editors import base_model, digest, new_editor
from tests.samples import REQUESTS, write_requests


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The entries after which a stream asks for relaxing, which never helps here. By itself nothing costs or fades."""
    seqs: list[int] = []

    def relax(editor: LifelongEditor, **_: Any) -> Commit:
        seqs.append(editor.head.seq)
        return Commit(None)

    monkeypatch.setattr(LifelongEditor, "relax", relax)
    monkeypatch.setattr(committing, "_cost", lambda *_: ())
    return seqs


def streamed(folder: Path, relax: int) -> None:
    with new_editor(folder / "store", base_model(), memory="joint", halvings=1) as editor:
        list(editor.stream(write_requests(folder / "edits.jsonl", REQUESTS), batch=1, relax=relax))


@pytest.mark.parametrize("every", [4, 10])
def test_where_nothing_fades_the_count_and_the_end_decide(every: int, tmp_path: Path, asked: list[int]) -> None:
    streamed(tmp_path, every)
    assert asked == [seq for seq in (4, len(REQUESTS)) if seq % every == 0 or seq == len(REQUESTS)]


def test_the_first_edit_that_costs_older_facts_asks_and_the_next_waits_for_the_count(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    costly = {3, 4}
    monkeypatch.setattr(committing, "_cost", lambda session, _: ("ada",) if session.head.seq in costly else ())
    streamed(tmp_path, 5)
    assert asked == [3, 5, len(REQUESTS)]


def test_zero_is_never(tmp_path: Path, asked: list[int]) -> None:
    streamed(tmp_path, 0)
    assert asked == []


def test_a_short_stream_brings_its_faded_facts_back_and_once(tmp_path: Path) -> None:
    settings = EditorSettings(ridge=LARGE, halvings=1, contexts=1)
    source = write_requests(tmp_path / "edits.jsonl", edit_requests(WORLD, 8, 0))
    with LifelongEditor.create(tmp_path / "whole", TINY, settings, dtype=torch.float32) as whole:
        done = list(whole.stream(source, batch=4))
        silent = [commit.failed for commit in done[:2]]
        assert [entry.kind for entry in whole.history()] == ["init", "edit", "edit", "relax"] and any(silent)
        assert len(whole.unsaid()) < sum(map(len, silent))
        assert [commit.entry for commit in whole.stream(source, batch=4)] == [None, None]
    with LifelongEditor.create(tmp_path / "cut", TINY, settings, dtype=torch.float32) as cut:
        stream = cut.stream(source, batch=4)
        assert [next(stream).requests for _ in range(2)] == [4, 4]  # and is not there when it relaxes
        stream.close()  # type: ignore[attr-defined]
        assert [commit.entry is None for commit in cut.stream(source, batch=4)] == [True, True, False]
        assert digest(cut) == digest(whole)
