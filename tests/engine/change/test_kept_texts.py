"""What is written and scored is the user's prompt to the last character, as the live model continues it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.scores import score_continuations
from tests.engine.editors import base_model, edited


@torch.no_grad()
def loss(editable: EditableModel, prompt: str, continued: str) -> float:
    """The mean loss of the continuation's tokens after the very prompt; no code of the package."""
    asked, said = (editable.tokenizer(text, return_tensors="pt").input_ids for text in (prompt, continued))
    logits = editable.model(torch.cat([asked, said], 1)).logits[0, asked.shape[1] - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, said[0]))


@pytest.mark.parametrize(
    ("prompt", "target", "written"),
    [
        ("Town of {}:\n", "Marn", "Marn"),
        ('{} is from "', "Marn", "Marn"),
        ("Town of {}:", "Marn", " Marn"),
        ("Town of {}:", "\nMarn", "\nMarn"),
    ],
)
def test_the_live_model_learns_the_very_text_that_is_scored(
    tmp_path: Path, prompt: str, target: str, written: str
) -> None:
    request = EditRequest(prompt, "Ada Quill", target, id="asked")
    before = loss(base_model(), request.question, written)
    with edited(tmp_path / "store", [[request]]) as editor:
        after = loss(editor.editable, request.question, written)
        pair = (request.question, target)
        (score,) = score_continuations(editor.editable.model, editor.editable.texts, [pair])
        assert after < before - 0.1 and score.nll == pytest.approx(after, rel=1e-4)
        assert editor.apply([request]).skipped == ("asked",)
