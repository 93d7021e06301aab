"""Streams: every request is committed exactly once, however often the stream is started and wherever it ended."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.fingerprint import fingerprint
from tests.engine.editors import EVERY_KIND, KINDS, WORK, base_model, digest, edited, ledger_of, live
from tests.reliability.engines import Killed, drop, dying
from tests.samples import REQUESTS

Line = dict[str, Any]
LINES: list[Line] = [request.to_dict() for request in (*REQUESTS[:2], WORK, *REQUESTS[2:])]
CUTS = [["ada", "emile"], ["work", "bo"], ["norvik", "ana"], ["kessel"]]  # in batches of two


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "edits.jsonl", LINES)


def write(path: Path, lines: Iterable[Line | str]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def unnamed(lines: Iterable[Line]) -> list[Line]:
    return [{name: value for name, value in line.items() if name != "id"} for line in lines]


def commits(editor: LifelongEditor) -> list[list[str]]:
    """The facts each entry wrote."""
    return [[fact["id"] for fact in entry.body["facts"]] for entry in editor.history() if entry.kind == "edit"]


def test_a_file_is_applied_in_its_order_and_only_once(source: Path, tmp_path: Path) -> None:
    with edited(tmp_path / "store", ()) as editor:
        done = list(editor.stream(source, batch=2, actor="a feed", reason="every night"))
        assert [[fact.id for fact in commit.facts] for commit in done] == commits(editor) == CUTS
        assert {(entry.body["actor"], entry.body["reason"]) for entry in editor.history()[1:]} == {
            ("a feed", "every night")
        }
        head, weights = editor.head, live(editor)
        again = list(editor.stream(source, batch=2))
        assert [(commit.entry, list(commit.skipped)) for commit in again] == [(None, cut) for cut in CUTS]
        assert editor.head == head and torch.equal(live(editor), weights)


def test_a_stream_is_as_lazy_as_who_asks(source: Path, tmp_path: Path) -> None:
    with edited(tmp_path / "store", ()) as editor:
        stream = editor.stream(source, batch=2)
        assert commits(editor) == []
        next(stream)
        assert commits(editor) == CUTS[:1]


def test_a_stream_makes_the_commits_that_apply_would(source: Path, tmp_path: Path) -> None:
    batches = [[EditRequest.from_dict(line) for line in LINES[i : i + 2]] for i in range(0, 7, 2)]
    with edited(tmp_path / "applied", batches) as applied, edited(tmp_path / "streamed", ()) as streamed:
        list(streamed.stream(source, batch=2, method="memit"))
        assert digest(streamed) == digest(applied)


@EVERY_KIND
def test_interrupted_at_every_commit_and_started_again_it_ends_in_the_same_weights(
    kind: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    """Lines without ids. Each start dies in its first new commit: before it is durable, the next one right after."""
    write(source, unnamed(LINES))
    with edited(tmp_path / "straight", (), **kind) as editor:
        list(editor.stream(source, batch=2))
        expected, facts = digest(editor), list(editor.facts())
    edited(tmp_path / "store", (), **kind).close()
    for count in range(4):
        for durable in (False, True):
            editor = LifelongEditor.open(tmp_path / "store", base_model())
            with dying(after=durable), pytest.raises(Killed):
                list(editor.stream(source, batch=2))
            drop(editor)
            assert len(ledger_of(tmp_path / "store")) == 1 + count + durable
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        assert [commit.entry for commit in editor.stream(source, batch=2)] == [None] * 4
        assert digest(editor) == expected and list(editor.facts()) == facts
        assert editor.verify(replay=True).problems == ()


@pytest.mark.parametrize("boundary", range(5))
def test_whoever_stops_listening_at_a_boundary_can_go_on_there(boundary: int, source: Path, tmp_path: Path) -> None:
    with edited(tmp_path / "store", (), **KINDS["joint-live-1"]) as editor:
        stream = editor.stream(source, batch=2)
        for _ in range(boundary):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert commits(editor) == CUTS[:boundary]
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        told = [commit.entry is not None for commit in editor.stream(source, batch=2)]
        assert told == [False] * boundary + [True] * (4 - boundary) and commits(editor) == CUTS


def test_what_was_appended_to_a_source_is_all_that_is_new(source: Path, tmp_path: Path) -> None:
    lines = unnamed(LINES)
    with edited(tmp_path / "grown", ()) as editor, edited(tmp_path / "straight", ()) as straight:
        list(editor.stream(write(source, lines[:4]), batch=2))
        before = list(editor.facts())
        told = list(editor.stream(write(source, lines), batch=2))
        assert [commit.entry is not None for commit in told] == [False, False, True, True]
        list(straight.stream(source, batch=2))
        assert list(editor.facts()) == list(straight.facts()) and list(editor.facts())[:4] == before
        assert digest(editor) == digest(straight)


def test_standard_input_is_no_different_from_a_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, unnamed(LINES))
    with edited(tmp_path / "file", ()) as one, edited(tmp_path / "pipe", ()) as other:
        list(one.stream(source, batch=3))
        for _ in range(2):  # and only once, too
            monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(source.read_bytes())))
            list(other.stream("-", batch=3))
        assert digest(one) == digest(other) and list(one.facts()) == list(other.facts())
        assert [commit.entry for commit in one.stream(source, batch=3)] == [None] * 3


def test_lines_that_contradict_each_other_are_written_one_after_the_other(tmp_path: Path) -> None:
    home = {"prompt": "{} has a home in", "subject": "Bo Lund", "target_new": "Marn"}
    lines = [home, {**home, "target_new": "Oran"}, LINES[0], home]
    with edited(tmp_path / "store", ()) as editor:
        list(editor.stream(write(tmp_path / "edits.jsonl", lines), batch=10))
        first, second, ada, third = editor.facts().values()
        assert [fact.seq for fact in (first, second, ada, third)] == [1, 2, 2, 3]
        assert (first.status, first.by, second.status, second.by) == ("superseded", second.id, "superseded", third.id)
        assert third.status == ada.status == "active" and third.request.target_new == "Marn"
        assert len(list(editor.stream(tmp_path / "edits.jsonl", batch=10))) == 3 and editor.head.seq == 3


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{not json", r"^edits.jsonl:4: the line is not JSON"),
        ({**LINES[3], "prompt": "no subject"}, r"^edits.jsonl:4: .*\{\}"),
        ({**LINES[3], "id": "ada"}, r"^edits.jsonl:3 to line 4: request id 'ada' was used at seq 1 for another edit"),
        ({**LINES[3], "prompt": "{}" + " o" * 95}, r"^edits.jsonl:3 to line 4: .*tokens"),
    ],
    ids=["no json", "no request", "a known id", "too long"],
)
def test_a_wrong_line_is_named_and_what_came_before_its_batch_stays(bad: Line | str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "edits.jsonl", [*LINES[:3], bad, *LINES[4:]])
    with edited(tmp_path / "store", ()) as editor:
        with pytest.raises(RequestError, match=said):
            list(editor.stream(path, batch=2))
        assert commits(editor) == CUTS[:1]
        list(editor.stream(write(path, LINES), batch=2))
        assert commits(editor) == CUTS


def test_a_batch_that_cannot_be_solved_stops_the_stream_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited(tmp_path / "store", ()) as editor:
        stream = editor.stream(source, batch=2)
        next(stream)
        model = fingerprint(editor.editable)
        with monkeypatch.context() as patch:
            patch.setattr("lifelong_edit.kinds.kernel.state.append", _unsolvable)
            with pytest.raises(SolveError, match="nearly collide"):
                next(stream)
        assert fingerprint(editor.editable) == model and commits(editor) == CUTS[:1]
        list(editor.stream(source, batch=2))
        assert commits(editor) == CUTS


def _unsolvable(*_: Any) -> Any:
    raise SolveError("facts nearly collide")


def test_an_empty_source_and_a_batch_of_none(tmp_path: Path) -> None:
    with edited(tmp_path / "store", ()) as editor:
        assert list(editor.stream(write(tmp_path / "edits.jsonl", ["", " "]))) == []
        with pytest.raises(RequestError, match="at least 1"):
            list(editor.stream(tmp_path / "edits.jsonl", batch=0))
        with pytest.raises(RequestError, match="cannot be opened"):
            list(editor.stream(tmp_path / "no such.jsonl"))
        assert editor.head.seq == 0
