"""The real forward pass of the edited model reaches the loss that its target was optimised to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import encode
from tests.models import MODEL_TYPES
from tests.samples import REQUESTS, lively_editable, new_editor

FACTS = (REQUESTS[0], replace(REQUESTS[4], target_new="Oran near the river"))  # the subject starts the prompt
TARGET = TargetSettings(rate=0.5, clamp=20.0, decay=0.0)  # without decay, J is what logits show


def essence_log_probabilities(editable: EditableModel, request: EditRequest) -> Tensor:
    """Next-token log-probabilities [vocabulary] at the subject's last token of "{} is a"."""
    encoded = encode(editable.tokenizer, replace(request, prompt="{} is a"))
    with torch.no_grad():
        logits = editable.model(input_ids=torch.tensor([encoded.prompt_ids])).logits
    return logits[0, encoded.subject_last].log_softmax(-1)


def likelihood(editable: EditableModel, request: EditRequest) -> float:
    """The mean of -log p over the target's tokens, from a plain pass."""
    encoded = encode(editable.tokenizer, request)
    with torch.no_grad():
        logs = editable.model(input_ids=torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
    asked = range(encoded.prompt_length - 1, len(encoded.ids) - 1)
    return -float(logs[asked, list(encoded.target_ids)].mean())


@pytest.mark.parametrize("memory", ["batch", "joint"])
@pytest.mark.parametrize("targets", ["base", "live"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_exact_edit_reaches_the_optimised_loss(model_type: str, targets: str, memory: str, tmp_path: Path) -> None:
    """The second moment is that of the prompts themselves: other tokens' keys are then orthogonal to the edited one,
    and what the edit writes at the subject is all that changes."""
    single = model_type == "gemma2"
    editable = lively_editable(model_type, torch.float32 if single else torch.float64)
    text = [text for fact in FACTS for text in (f"{fact.question} {fact.target_new}", f"{fact.subject} is a")]
    with new_editor(
        tmp_path / "store",
        editable,
        text,
        contexts=0,
        target=TARGET,
        targets=targets,
        memory=memory,
        shrinkage=1e-6 if single else 1e-9,
    ) as editor:
        for fact in FACTS:
            unedited, before = essence_log_probabilities(editable, fact), likelihood(editable, fact)
            commit = editor.apply([fact], method="emmet")
            now = essence_log_probabilities(editable, fact)
            kl = float((now.exp() * (now - unedited)).sum())
            assert commit.entry is not None
            assert likelihood(editable, fact) + TARGET.kl * kl == pytest.approx(
                commit.entry.body["loss"][0], rel=2e-3 if single else 1e-5
            )
            assert likelihood(editable, fact) < before - 0.1
