"""A tracker is told the numbers that the ledger has, with the seq as the step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.report.trackers import log_to, numbers_of
from lifelong_edit.tracking.budget import Budget
from tests.engine.change.test_budget import ANYTHING
from tests.engine.editors import BATCHES, edited


class Run:
    """Keeps what is logged, as wandb's run would."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    def log(self, data: dict[str, float], step: int) -> None:
        self.steps[step] = data


def test_every_entry_with_numbers_is_logged_once_under_stable_names(tmp_path: Path) -> None:
    run = Run()
    with edited(tmp_path / "store", ()) as editor:
        editor.subscribe(log_to(run))
        for batch in BATCHES:
            editor.apply(batch, budget=Budget(every=1, limits=ANYTHING))
        editor.tag("here")
        editor.measure(drift=True)
        entries = {entry.seq: entry for entry in editor.history()}
    assert sorted(run.steps) == [1, 2, 3, 5]
    weight = "transformer.h.0.mlp.c_proj.weight"
    for seq, numbers in run.steps.items():
        assert numbers == numbers_of(entries[seq]) and all(math.isfinite(value) for value in numbers.values())
        scores = [score for score in entries[seq].body["scores"][EFFICACY].values() if score is not None]
        assert numbers[f"scores/{EFFICACY}"] == pytest.approx(sum(scores) / len(scores))
    last = entries[3].body
    assert run.steps[3][f"telemetry/{weight}/capacity"] == last["telemetry"][weight]["capacity"]
    assert run.steps[3]["facts"] == 6 and run.steps[3]["vital/norm"] == last["vital"]["signs"]["norm"]
    assert run.steps[5][f"drift/norm/{weight}"] == pytest.approx(run.steps[3]["vital/norm"])
