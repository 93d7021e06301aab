"""The blast radius of a change: what is predicted from stored keys, and what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.change.commit import BlastRadius, Shift
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tracking.scores import Score, score_continuations
from tests.engine.editors import (
    BATCHES,
    EVERY_KIND,
    KINDS,
    WORK,
    base_model,
    digest,
    edited,
    files,
    newest_record,
    record_of,
)
from tests.samples import REQUESTS

WITH_WORK = [*BATCHES[:2], [WORK], BATCHES[2]]


def by_hand(editor: LifelongEditor, kind: dict[str, Any], ids: set[str]) -> dict[str, float]:
    """|D k| / |v - W_0 k| of these facts, the largest over the layers, from the records alone."""
    shifts = dict.fromkeys(ids, 0.0)
    root = editor.store.layout.root
    for layer in kind["layers"]:
        delta = newest_record(editor, layer)
        for entry in editor.history()[:-1]:
            for index, facts in enumerate(entry.body.get("columns", [])):
                held = record_of(root, str(entry.record), layer)
                moved = delta["left"] @ (delta["right"].T @ held["keys"][:, index])
                size = float((moved**2).sum() / (held["base_residuals"][:, index] ** 2).sum()) ** 0.5
                for id in ids & {*facts}:
                    shifts[id] = max(shifts[id], size)
    return shifts


@EVERY_KIND
def test_what_is_predicted_is_what_the_delta_does_to_the_stored_keys(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", **kind) as editor:
        for verb, gone in (("revert", {"ada", "ana"}), ("restore", {"ana"})):
            others = {id for id, fact in editor.facts().items() if fact.status == "active"} - gone
            radius = getattr(editor, verb)(*gone).radius
            assert radius is not None and {shift.fact for shift in radius.shifts} == others
            expected = by_hand(editor, kind, others)
            for shift in radius.shifts:
                assert shift.predicted == pytest.approx(expected[shift.fact], rel=1e-6, abs=1e-12)
                assert shift.seq == editor.facts()[shift.fact].seq
            sizes = [shift.predicted for shift in radius.shifts]
            assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0


@EVERY_KIND
def test_scores_before_and_after_are_those_of_the_two_models(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", **kind) as editor:
        before = editor.at(3).editable
        radius = editor.revert("ada", probe=3).radius
        assert radius is not None and radius.measured == radius.shifts[:3]
        assert all((shift.before, shift.after) == (None, None) for shift in radius.shifts[3:])
        requests = [editor.facts()[shift.fact].request for shift in radius.measured]
        pairs = [(request.question, request.target_new) for request in requests]
        for editable, scores in (
            (before, [shift.before for shift in radius.measured]),
            (editor.editable, [shift.after for shift in radius.measured]),
        ):
            assert score_continuations(editable.model, editable.tokenizer, pairs) == scores


def test_lost_are_the_measured_facts_that_were_the_first_choice_and_are_no_longer() -> None:
    said, unsaid = Score(nll=0.1, accuracy=1.0), Score(nll=0.2, accuracy=0.5)
    pairs = {"lost": (said, unsaid), "kept": (said, said), "won": (unsaid, said), "never": (unsaid, unsaid)}
    measured = tuple(Shift(id, 1, 0.5, *pair) for id, pair in pairs.items())
    radius = BlastRadius((*measured, Shift("unmeasured", 1, 0.4)), (), ())
    assert radius.measured == measured
    assert [shift.fact for shift in radius.lost] == ["lost"]


@EVERY_KIND
def test_a_preview_says_what_the_revert_then_does_and_changes_nothing(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", WITH_WORK, **kind) as editor:
        for names, choices in ((("kessel",), {}), (("ada",), {}), ((), {"commit": 2}), ((), {"to": 1})):
            model, stored, entries = fingerprint(editor.editable), files(tmp_path / "store"), editor.history()
            preview = editor.preview_revert(*names, **choices)
            assert preview.entry is None and preview.survived is None
            assert (fingerprint(editor.editable), files(tmp_path / "store")) == (model, stored)
            assert editor.history() == entries
            done = editor.revert(*names, **choices, probe=0)
            assert done.radius == preview.radius and done.rewritten == preview.rewritten
            assert [fact.id for fact in done.facts] == [fact.id for fact in preview.facts]
            assert (done.restored, done.superseded) == (preview.restored, preview.superseded)


def test_facts_of_a_rewritten_slot_are_not_bystanders(tmp_path: Path) -> None:
    with edited(tmp_path / "store", WITH_WORK, **KINDS["joint-base-1"]) as editor:
        commit = editor.revert("ada")
        assert commit.rewritten == ("work",)
        assert "work" not in {shift.fact for shift in commit.radius.shifts}  # type: ignore[union-attr]


@EVERY_KIND
def test_batches_that_come_after_and_live_targets_that_saw_it_are_named(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", **kind) as editor:
        radius = editor.revert("ada").radius
        assert radius is not None and radius.recomputed == (1, 2, 3)
        assert radius.saw == ((2, 3) if kind["targets"] == "live" else ())
        radius = editor.revert("kessel").radius  # the newest: nothing came after it
        assert radius is not None and (radius.saw, radius.recomputed) == ((), ())


def test_with_nothing_else_active_there_is_no_bystander(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:1]]) as editor:
        radius = editor.revert("ada").radius
        assert radius is not None and (radius.shifts, radius.lost, radius.recomputed) == ((), (), ())
        assert digest(editor) == editor.history()[0].body["base_weights"]
        assert torch.equal(editor.editable.weight(0), base_model().weight(0))
