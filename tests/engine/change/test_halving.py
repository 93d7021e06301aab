"""Batches that are tried in halves: what was refused is read again, and an interruption changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.change import budget as budgets
from lifelong_edit.engine.change.commit import Commit
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import HealthStop
from lifelong_edit.kinds.kind import Change
from lifelong_edit.tracking.budget import Budget, OnRed
from lifelong_edit.tracking.health import HealthLimits, Limit
from tests.engine.editors import base_model, digest, edited
from tests.reliability.engines import Killed, drop, dying
from tests.samples import REQUESTS, write_requests

ANYTHING = HealthLimits(*[Limit(1e6, 1e6)] * 7)
HALVE = Budget(every=2, limits=ANYTHING, on_red=OnRed.halve)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(write_requests(tmp_path / "edits.jsonl", REQUESTS))


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The facts for which every reading is red; so is every reading of more than two facts at once."""
    refused = set[str]()

    def check(session: Session, change: Change, budget: Budget) -> dict[str, Any]:
        ids = [fact["id"] for fact in change.body["facts"]]
        if len(ids) > 2 or refused.intersection(ids):
            raise HealthStop("Health is red. Nothing was committed.")
        return budgets.check(session, change, budget)

    monkeypatch.setattr("lifelong_edit.engine.editor.check", check)
    yield refused


def told(editor: LifelongEditor) -> list[tuple[Any, ...]]:
    """What the entries say, but for times: the facts that each wrote, what it leaves, and whether it was read."""
    return [
        ([fact["id"] for fact in entry.body["facts"]], entry.body.get("refused", []), "vital" in entry.body)
        for entry in editor.history()[1:]
    ]


@pytest.mark.parametrize(
    "again",
    [
        {"batch": 4, "budget": HALVE},
        {"batch": 2, "budget": HALVE},
        {"batch": 1, "budget": replace(HALVE, every="log")},
        {"batch": 4, "budget": replace(HALVE, on_red=OnRed.stop)},
        {"batch": 2, "budget": replace(HALVE, every=50, on_red=OnRed.stop)},
    ],
    ids=["the same", "smaller batches", "one by one", "stop", "another schedule"],
)
def test_a_repeated_command_does_not_get_past_a_refusal(
    again: dict[str, Any], source: Path, refusing: set[str], tmp_path: Path
) -> None:
    refusing.add("norvik")  # the fourth of the first batch
    with edited(tmp_path / "store", [REQUESTS[5:]]) as editor:
        with pytest.raises(HealthStop):
            list(editor.stream(source, batch=4, budget=HALVE))
        written = told(editor)
        assert [facts for facts, _, _ in written][-2:] == [["ada", "emile"], ["bo"]]
        for _ in range(3):
            with pytest.raises(HealthStop):
                list(editor.stream(source, **again))
            assert told(editor) == written
        with pytest.raises(HealthStop):
            editor.apply([REQUESTS[3]], budget=replace(HALVE, every=50, on_red=OnRed.stop))
        refusing.clear()
        list(editor.stream(source, **again))
        assert (["norvik"], [], True) in told(editor) and set(editor.facts()) == {request.id for request in REQUESTS}


def test_a_kill_between_halves_ends_as_a_run_that_was_not_interrupted(
    source: Path, refusing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start dies in its first new commit, before it is durable or right after. Upkeep is asked for where it was.

    Relaxing is stood in for by a note of the entry after which it would have been.
    """
    asked = set[int]()

    def relax(editor: LifelongEditor, **_: Any) -> Commit:
        asked.add(editor.head.seq)
        return Commit(None)

    monkeypatch.setattr(LifelongEditor, "relax", relax)
    choices: dict[str, Any] = {"batch": 4, "budget": replace(HALVE, every=1), "relax": 1}
    with edited(tmp_path / "straight", (), memory="joint", halvings=1) as editor:
        list(editor.stream(source, **choices))
        expected, weights, upkeep = told(editor), digest(editor), set(asked)
    assert [facts for facts, _, _ in expected] == [["ada", "emile"], ["bo", "norvik"], ["ana", "kessel"]]
    assert upkeep == {2, 3}  # not between the halves
    asked.clear()
    edited(tmp_path / "store", (), memory="joint", halvings=1).close()
    for count in range(3):
        for durable in (False, True):
            editor = LifelongEditor.open(tmp_path / "store", base_model())
            with dying(after=durable), pytest.raises(Killed):
                list(editor.stream(source, **choices))
            drop(editor)
            assert editor.head.seq == count
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        list(editor.stream(source, **choices))
        assert (told(editor), digest(editor), asked) == (expected, weights, upkeep)


def test_upkeep_of_a_stream_stands_under_its_budget_and_its_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def relax(_: LifelongEditor, **choices: Any) -> Commit:
        given.append(choices)
        return Commit(None)

    monkeypatch.setattr(LifelongEditor, "relax", relax)
    with edited(tmp_path / "store", (), memory="joint", halvings=1) as editor:
        list(editor.stream(source, batch=3, budget=HALVE, actor="a feed", reason="every night", relax=1))
    assert given == [{"budget": HALVE, "actor": "a feed", "reason": "every night"}] * 2
