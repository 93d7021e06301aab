"""What entries and readers say from stored keys and values, against the weights themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit.algebra.telemetry import Telemetry
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import Entry
from lifelong_edit.store.store import Store
from tests.engine.editors import BATCHES, EVERY_KIND, KINDS, LAND, WORK, edited, lived_in, record_of
from tests.samples import REQUESTS

SIZES = {"capacity", "preservation", "relative_norm", "norm", "stable_rank", "entropy", "condition", "newest_condition"}


@EVERY_KIND
def test_every_entry_that_changes_weights_says_what_the_reader_says_then(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", [*BATCHES, [WORK]], **kind) as editor:
        editor.revert("bo")
        for name, read in editor.telemetry().items():
            kept = editor.head.body["telemetry"][name]
            assert set(kept) > SIZES
            for figure in ("capacity", "preservation", "relative_norm", "condition"):
                assert kept[figure] == pytest.approx(getattr(read, figure))
            assert kept["norm"] == pytest.approx(read.spectrum.norm)
        assert all("telemetry" in entry.body for entry in editor.history() if entry.weights)
        worst = max(one["residual"]["max"] for one in editor.head.body["telemetry"].values())
        assert worst == pytest.approx(max(editor.residuals().values()))


@EVERY_KIND
def test_a_residual_is_what_the_weights_miss_of_the_value_that_was_written_last(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    with edited(tmp_path / "store", [*BATCHES, [WORK]], **kind) as editor:
        found = editor.residuals()
        assert list(found) == list(editor.standing.history.active)
        expected = dict.fromkeys(found, 0.0)
        for seq in (1, 2, 3, 4):
            body = editor.history()[seq].body
            for number, layer in editor.state.layers.items():
                part = record_of(tmp_path / "store", body["record"], number)
                asked, keys = torch.from_numpy(part["base_residuals"]), torch.from_numpy(part["keys"])
                missing = asked - (layer.weight - layer.base.double()) @ keys
                for i, ids in enumerate(body["columns"]):
                    share = float(missing[:, i].norm() / asked[:, i].norm())
                    for id in ids:  # a later value of the slot stands in for an earlier one
                        before = expected[id] if number else 0.0
                        expected[id] = max(before, share)
        if len(editor.state.layers) == 1:
            assert found == pytest.approx(expected)
        assert all(0 <= residual < 10 for residual in found.values())


@pytest.mark.parametrize("memory", ["joint", "batch"])
def test_interference_is_what_the_new_delta_does_at_the_older_edits_keys(memory: str, tmp_path: Path) -> None:
    with edited(tmp_path / "store", memory=memory) as editor:
        (kept,) = editor.head.body["telemetry"].values()
        delta = record_of(tmp_path / "store", str(editor.head.record))
        left, right = torch.from_numpy(delta["left"]), torch.from_numpy(delta["right"])
        expected = {}
        for seq in (1, 2):
            part = record_of(tmp_path / "store", editor.history()[seq].body["record"])
            moved = (left @ (right.T @ torch.from_numpy(part["keys"]))).norm(dim=0)
            expected[seq] = float((moved / torch.from_numpy(part["base_residuals"]).norm(dim=0)).mean())
        assert dict(kept["interference"]) == pytest.approx(expected)
        assert [seq for seq, _ in kept["interference"]] == sorted(expected, key=lambda seq: -expected[seq])


def test_those_at_risk_and_collisions_are_named(tmp_path: Path) -> None:
    near = EditRequest("In 1912 {} was born in", "Ada Quill", "Kessel", id="near")
    with edited(tmp_path / "store", [[REQUESTS[0]], [near]], memory="batch", targets="base", ridge=0.001) as editor:
        (kept,) = editor.head.body["telemetry"].values()
        found = editor.kind.risks(editor.standing.history, editor.state)
        assert kept["flagged"] == pytest.approx({id: risk for id, risk in found.items() if risk > 0})
        assert found["near"] < 0 and found["near"] < found["ada"]
    with edited(tmp_path / "other") as editor:
        (kept,) = editor.head.body["telemetry"].values()
        known = set(editor.facts())
        assert all({one, other} < known and abs(cosine) > 0.99 for one, other, cosine in kept["collisions"])


@pytest.mark.parametrize("kind", [KINDS["joint-base-1"], KINDS["batch-live-1"]], ids=["joint", "batch"])
def test_an_empty_store_and_one_whose_facts_all_went_have_telemetry(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", (), **kind) as editor:
        (read,) = editor.telemetry().values()
        assert isinstance(read, Telemetry) and (read.capacity, read.relative_norm) == (0.0, 0.0)
        commit = editor.apply([REQUESTS[0], LAND])
        editor.revert(*[fact.id for fact in commit.facts])
        (kept,) = editor.head.body["telemetry"].values()
        assert kept["residual"] is None and kept["condition"] is None and kept["capacity"] == 0.0
        assert editor.residuals() == {}


def test_a_store_that_was_lived_in_has_finite_telemetry_throughout(tmp_path: Path) -> None:
    with lived_in(tmp_path / "store") as editor:
        for entry in editor.history():
            for kept in entry.body.get("telemetry", {}).values():
                assert kept["capacity"] >= 0 and kept["relative_norm"] >= 0


def test_an_observer_is_told_of_every_entry_and_its_error_undoes_nothing(tmp_path: Path) -> None:
    with edited(tmp_path / "store", BATCHES[:1]) as editor:
        told: list[Entry] = []

        def fails(entry: Entry) -> None:
            raise OSError("the tracker is away")

        editor.subscribe(told.append)
        editor.apply(BATCHES[1])
        editor.subscribe(fails)
        with pytest.warns(UserWarning, match="entry 3, which is committed.*tracker is away"):
            editor.tag("here")
        with pytest.warns(UserWarning, match="An observer failed"):
            editor.revert("ada")
        assert told == editor.history()[2:]
    with LifelongEditor.open(tmp_path / "store") as reader, Store.open(tmp_path / "store", read_only=True):
        assert [entry.kind for entry in reader.history()] == ["init", "edit", "edit", "tag", "revert"]
