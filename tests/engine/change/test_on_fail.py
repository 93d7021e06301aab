"""What becomes of facts that the model does not say after their edit: they stay, go out again at once, or end it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit import EditRequest
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.change import commit as committing
from lifelong_edit.errors import NotSaid, RequestError
from lifelong_edit.tracking.unsaid import OnFail
from tests.engine.editors import MEMORIES, base_model, digest, edited, new_editor
from tests.reliability.engines import Killed, drop, dying
from tests.samples import REQUESTS, write_requests

BATCH = 2
FAILING = {"emile", "ana", "kessel"}  # one of the first batch, none of the second, all of the third
GOOD = {"ada", "bo", "norvik"}
NEVER_SAID = "Tarsis Marn"


@pytest.fixture(autouse=True)
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let just these facts fail, whatever the small random model says."""

    def failed(_session: Any, _change: Any, facts: Sequence[Any], _body: Any) -> tuple[str, ...]:
        return tuple(f.id for f in facts if f.id in FAILING or f.request.target_new == NEVER_SAID)

    monkeypatch.setattr(committing, "_failed", failed)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(write_requests(tmp_path / "edits.jsonl", REQUESTS))


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[LifelongEditor]:
    with new_editor(tmp_path / "store", base_model()) as opened:
        yield opened


def active(editor: LifelongEditor) -> Collection[str]:
    return editor.standing.history.active.keys()


def told(editor: LifelongEditor) -> list[tuple[Any, ...]]:
    """What the entries say, but for times."""
    named = [[f if isinstance(f, str) else f["id"] for f in entry.body["facts"]] for entry in editor.history()[1:]]
    return [(e.kind, e.body["reason"], ids, e.weights) for e, ids in zip(editor.history()[1:], named, strict=True)]


@pytest.mark.parametrize("memory", MEMORIES)
def test_reverting_what_failed_is_a_revert_by_hand(memory: str, tmp_path: Path) -> None:
    with edited(tmp_path / "hand", [REQUESTS[:3]], memory=memory) as hand:
        assert hand.head.body["failed"] == ["emile"] and hand.head.seq == 1
        hand.revert("emile")
        with new_editor(tmp_path / "store", base_model(), memory=memory) as editor:
            commit = editor.apply(REQUESTS[:3], on_fail="revert", actor="eve", reason="the registry")
            assert commit.failed == ("emile",) and active(editor) == {"ada", "bo"}
            assert commit.entry is not None and commit.undone == editor.head and editor.head.seq == 2
            assert editor.head.body["facts"] == ["emile"] and editor.head.body["actor"] == "eve"
            assert editor.head.body["reason"] == "not said after entry 1"
            assert digest(editor) == digest(hand)
            commit.check()  # nothing stands that is not said
        with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
            assert editor.verify(replay=True).problems == ()
            assert editor.apply(REQUESTS[:3], on_fail="revert").entry is None and editor.head.seq == 2


def test_a_replacement_that_fails_lets_the_old_fact_stand(editor: LifelongEditor) -> None:
    editor.apply(REQUESTS[:1])
    before = digest(editor)
    commit = editor.replace("ada", NEVER_SAID, on_fail="revert")
    assert len(commit.failed) == 1 and commit.undone is not None and commit.superseded == ("ada",)
    assert active(editor) == {"ada"} and digest(editor) == before


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_stream_that_is_killed_between_a_commit_and_its_revert_ends_as_one_that_was_not(
    memory: str, source: Path, tmp_path: Path
) -> None:
    """Every start dies in its first new commit, an edit or a revert: before it is durable, and right after."""
    choices: dict[str, Any] = {"batch": BATCH, "on_fail": OnFail.revert}
    with new_editor(tmp_path / "straight", base_model(), memory=memory) as editor:
        done = list(editor.stream(source, **choices))
        assert [commit.undone is not None for commit in done] == [True, False, True]
        assert active(editor) == GOOD
        expected = told(editor)
    assert [kind for kind, *_ in expected] == ["edit", "revert", "edit", "edit", "revert"]
    new_editor(tmp_path / "store", base_model(), memory=memory).close()
    for count in range(len(expected)):
        for durable in (False, True):
            editor = LifelongEditor.open(tmp_path / "store", base_model())
            with dying(after=durable), pytest.raises(Killed):
                list(editor.stream(source, **choices))
            drop(editor)
            assert editor.head.seq == count
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        assert [(commit.entry, commit.undone) for commit in editor.stream(source, **choices)] == [(None, None)] * 3
        assert told(editor) == expected


def test_what_a_killed_run_left_goes_out_before_anything_else_is_written(tmp_path: Path) -> None:
    editor = new_editor(tmp_path / "store", base_model())
    with dying(after=True), pytest.raises(Killed):
        editor.apply(REQUESTS[:2], on_fail="revert")
    drop(editor)
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        assert active(editor) == {"ada", "emile"}
        commit = editor.apply(REQUESTS[2:4], on_fail="revert")
        assert [entry.kind for entry in editor.history()[1:]] == ["edit", "revert", "edit"]
        assert commit.undone is not None and commit.undone.seq == 2 and active(editor) == GOOD
        editor.restore("emile")
        editor.apply(REQUESTS[4:5], on_fail="keep")
        assert editor.apply(REQUESTS[:1], on_fail="revert").undone is None, "what was restored or kept is wanted"
        assert active(editor) == {*GOOD, "emile", "ana"}


def test_a_stream_that_stops_reads_nothing_more_and_goes_on_behind_the_commit(source: Path, tmp_path: Path) -> None:
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    source.write_text("".join([*lines[:2], "{no json\n"]), encoding="utf-8")
    heard = []
    with new_editor(tmp_path / "store", base_model()) as editor:
        with pytest.raises(NotSaid, match=r"1 of 2 facts of entry 1 do not hold: emile\. They stand") as stopped:
            for commit in editor.stream(source, batch=BATCH, on_fail="stop"):
                heard.append(commit.failed)
        assert heard == [("emile",)] and stopped.value.exit_code == 9
        assert active(editor) == {"ada", "emile"} and editor.unsaid()["emile"] == 1
        source.write_text("".join(lines), encoding="utf-8")
        with pytest.raises(NotSaid, match="2 of 2 facts of entry 3 do not hold: ana, kessel"):
            list(editor.stream(source, batch=BATCH, on_fail="stop"))
        assert [commit.entry for commit in editor.stream(source, batch=BATCH, on_fail="stop")] == [None] * 3
        assert [kind for kind, *_ in told(editor)] == ["edit"] * 3


def test_an_edit_that_stops_is_committed_all_the_same(editor: LifelongEditor) -> None:
    with pytest.raises(NotSaid, match="emile"):
        editor.apply(REQUESTS[:2], on_fail="stop")
    assert active(editor) == {"ada", "emile"}
    assert editor.apply(REQUESTS[2:4], on_fail="stop").failed == ()
    kept = editor.apply(REQUESTS[4:])
    assert kept.undone is None and active(editor) == {request.id for request in REQUESTS}
    with pytest.raises(NotSaid, match="ana, kessel"):
        kept.check()


def test_protected_facts_that_moved_go_out_again(tmp_path: Path) -> None:
    known = EditRequest("{} sings of", "The river", "Marn", id="emile")
    with new_editor(tmp_path / "store", base_model(), memory="joint") as editor:
        commit = editor.protect([known], on_fail="revert")
        assert commit.failed == ("emile",) and not active(editor)


def test_there_are_three_things_to_do(editor: LifelongEditor, source: Path) -> None:
    for refused in (lambda: editor.apply(REQUESTS[:2], on_fail="halve"), lambda: editor.stream(source, on_fail="no")):
        with pytest.raises(RequestError, match="on_fail is keep, revert or stop"):
            refused()
    assert editor.head.seq == 0
