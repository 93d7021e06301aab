"""The figures of reverts: both laws hold, and a revert that does nothing is noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

import reverts
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel.write import KernelChange
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from reverts import Written, written
from tests.samples import QUICK
from tests.world.test_tiny_world import FOLDER

STREAM = edit_requests(World.generate(BUNDLED_SEED), 20, seed=0)
FAST = EditorSettings(target=QUICK, contexts=1)


def test_reverts_keep_both_laws_and_the_others_answers() -> None:
    untouched = untouched_facts(World.generate(BUNDLED_SEED), 20, 20, seed=0)
    with written(FOLDER, STREAM, FAST) as store:
        exact = reverts.exactness(store, STREAM[::5])
        laws = reverts.no_trace(store, FOLDER, STREAM, STREAM[3:4], [STREAM[3].question])
        figures = {what: figure for what, figure, _ in reverts.recall(store, STREAM, STREAM[:2], untouched)}
    for what, figure, bound in [*exact, *laws]:
        assert bound is not None and figure <= bound, what
    assert len(exact) == 3 and len(laws) == 2
    assert figures["d  untouched recall of the store, %"] > 80
    assert all(figure == figure for figure in figures.values()), "no figure is missing"


def test_a_revert_that_leaves_the_fact_in_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Written.revert

    def idle(store: Written, request: EditRequest) -> tuple[KernelChange, Tensor]:
        return whole(store, request)[0], store.layer.weight

    monkeypatch.setattr(Written, "revert", idle)
    with written(FOLDER, STREAM, FAST) as store:
        rows = reverts.exactness(store, STREAM[:1])
        (far, bound) = reverts.no_trace(store, FOLDER, STREAM, STREAM[:1], [])[0][1:]
    assert all(figure > 1e-2 for _, figure, _ in rows)
    assert bound is not None and far > 1e-2


def test_with_live_targets_the_gap_is_measured() -> None:
    rows = reverts.gap(FOLDER, STREAM[:12], 1, replace(FAST, targets="live"))
    mean, most, before, _ = (figure for _, figure, _ in rows)
    assert 0 < mean == most < before, "a revert brings the weights nearer to those of a stream without the fact"
