"""The bench of a store fills it without optimising, and measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench_store
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests
from tests.world.test_tiny_world import FOLDER

STREAM = edit_requests(World.generate(BUNDLED_SEED), 20, seed=0)


def test_the_bench_measures_a_store_that_fills_without_optimising(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_store, "REPEATS", 1)
    with bench_store.random_targets(seed=0):
        rows = list(bench_store.filled(tmp_path, FOLDER, STREAM, [10, 20]))
    assert [row["facts"] for row in rows] == [10, 20]
    for row in rows:
        assert all(row[column] > 0 for column in bench_store.COLUMNS)
        assert row["ratio"] == row["its algebra"] / row["targets of a batch"]
        computed = bench_store.sizes("", (256, 768))[3]
        assert isinstance(computed, int) and computed < row["bytes a fact"] < 1.2 * computed
    with LifelongEditor.open(tmp_path / "filling") as reader:
        steps = [step for entry in reader.history()[1:] for step in entry.body["steps"]]
        assert steps == [0] * 20, "no target was optimised"
    with LifelongEditor.open(tmp_path / "20") as reader:
        assert {entry.kind for entry in reader.history()} == {"init", "edit", "revert", "restore"}
        assert {fact.status for fact in reader.facts().values()} == {"active"}
