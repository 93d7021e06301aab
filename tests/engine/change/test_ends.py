"""An end that is asked for is written and scored with the target, and kept in the ledger as the text it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.tracking.scores import measure
from tests.engine.editors import base_model
from tests.samples import REQUESTS, new_editor

PATIENT = TargetSettings(steps=30, rate=0.5, clamp=8.0, decay=0.0)
ENDED = replace(REQUESTS[0], end=True)


@pytest.fixture
def editor(tmp_path: Path) -> LifelongEditor:
    return new_editor(tmp_path / "store", base_model(), ridge=1e-3, target=PATIENT)


def test_ledger_and_replacement_keep_the_end_as_a_text(editor: LifelongEditor) -> None:
    (fact,) = editor.apply([ENDED]).facts
    assert fact.request == replace(ENDED, end="</s>")
    (replaced,) = editor.replace(fact.id, "Oran").facts
    assert replaced.request == replace(fact.request, id=None, target_new="Oran")


def test_teacher_forced_scores_ask_for_the_end_and_a_free_answer_for_the_target(editor: LifelongEditor) -> None:
    (fact,) = editor.apply(REQUESTS[:1]).facts
    for request, said in ((fact.request, 1.0), (replace(fact.request, end="."), 0.0)):
        found = measure(editor.editable, [request], ("rewrite/argmax", "rewrite/greedy"))
        assert [figure.value for figure in found.values()] == [said, 1.0]
