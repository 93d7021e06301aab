"""Who made the model forget: shares are parts of what is missing, and leaving the suspect out is what a revert does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.generation import answer
from tests.engine.editors import BATCHES, EVERY_KIND, WORK, edited, record_of
from tests.samples import REQUESTS


@EVERY_KIND
def test_the_shares_of_all_batches_sum_to_one(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", [*BATCHES, [WORK]], **kind) as editor:
        for id in ("ada", "emile", "bo", "kessel"):
            found = editor.forgotten(id)
            assert found.own.share + sum(one.share for one in found.suspects) == pytest.approx(1.0)
            assert [one.share for one in found.suspects] == sorted((one.share for one in found.suspects), reverse=True)
            assert all(one.seq > found.own.seq for one in found.suspects)
            assert id in found.own.facts
        last = editor.forgotten("kessel")
        assert last.own.seq == 3 and [one.seq for one in last.suspects] == ([4] if kind["memory"] == "batch" else [])


def test_what_a_batch_did_is_what_its_delta_writes_at_the_key(tmp_path: Path) -> None:
    with edited(tmp_path / "store", memory="batch", targets="live") as editor:
        found = editor.forgotten("emile")
        layer = editor.state.layers[0]
        own = record_of(tmp_path / "store", str(editor.history()[1].record))
        key, asked = (torch.from_numpy(own[name][:, 1]) for name in ("keys", "base_residuals"))
        missing = asked - (layer.weight - layer.base.double()) @ key
        assert found.missing == pytest.approx(float(missing.norm() / asked.norm()))
        for suspect in found.suspects:
            delta = record_of(tmp_path / "store", str(editor.history()[suspect.seq].record))
            part = -torch.from_numpy(delta["left"]) @ (torch.from_numpy(delta["right"]).T @ key)
            assert suspect.share == pytest.approx(float(part @ missing / (missing @ missing)))
            assert set(suspect.facts) == {fact["id"] for fact in editor.history()[suspect.seq].body["facts"]}


@EVERY_KIND
def test_leaving_the_suspect_out_is_reverting_its_entry(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", **kind) as editor:
        found = editor.forgotten("ada")
        entry, prompt = found.suspects[0].seq, REQUESTS[0].question
        assert found.now == answer(editor.editable, prompt)
        editor.revert(commit=entry, probe=0)
        assert found.without == answer(editor.editable, prompt)
        editor.revert(to=0, probe=0)
        assert found.base == answer(editor.editable, prompt)


def test_the_culprit_is_the_batch_that_collides(tmp_path: Path) -> None:
    """A later fact about the same subject, in a slot of its own, has the nearest key."""
    near = EditRequest("In 1912 {} was born in", "Ada Quill", "Kessel", id="near")
    batches = [REQUESTS[:1], REQUESTS[2:3], [near], REQUESTS[3:5]]
    with edited(tmp_path / "store", batches, memory="batch", targets="base", ridge=0.01) as editor:
        slots = {fact.slot for fact in editor.facts().values()}
        assert len(slots) == 5
        found = editor.forgotten("ada")
        assert found.suspects[0].seq == 3 and found.suspects[0].facts == ("near",)
    with edited(tmp_path / "other", batches[:1], memory="batch", targets="base") as editor:
        assert editor.forgotten("ada").suspects == () and editor.forgotten("ada").without is None


def test_a_fact_that_no_edit_can_have_made_forgotten_is_refused(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        editor.revert("bo")
        with pytest.raises(RequestError, match="'bo' is reverted"):
            editor.forgotten("bo")
        with pytest.raises(RequestError, match="nobody"):
            editor.forgotten("nobody")
    with LifelongEditor.open(tmp_path / "store") as reader, pytest.raises(RequestError, match="without a model"):
        reader.forgotten("ada")
