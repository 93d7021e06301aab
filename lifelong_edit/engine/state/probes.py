"""Probes: what the base model answered to a few prompts when the store was made, so that drift is noticed."""

from __future__ import annotations

from typing import Any

import torch

from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.errors import ModelMismatch
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import tokens

PROMPTS, TOKENS = 8, 16
WARNING, REFUSAL = 1e-4, 1e-2  # largest difference of a logit, relative to the largest logit


def take_probes(editable: EditableModel, seed: int) -> dict[str, Any]:
    """The likeliest tokens after a few sampled prompts and their logits, as plain JSON values."""
    prompts = list(sample_contexts(editable, PROMPTS, seed))
    best = [_logits(editable, prompt).topk(TOKENS) for prompt in prompts]
    return {
        "prompts": prompts,
        "tokens": [found.indices.tolist() for found in best],
        "logits": [found.values.tolist() for found in best],
        "dtype": str(editable.dtype).removeprefix("torch."),
    }


def probe_distance(editable: EditableModel, probes: dict[str, Any]) -> float:
    """How far the model's logits are from the recorded ones, relative to the largest; rounding of the dtypes aside."""
    rounding = max(torch.finfo(dtype).eps for dtype in (editable.dtype, getattr(torch, probes["dtype"])))
    worst = 0.0
    for prompt, ids, logits in zip(probes["prompts"], probes["tokens"], probes["logits"], strict=True):
        recorded = torch.tensor(logits)
        apart = (_logits(editable, prompt)[ids] - recorded).abs().max() / recorded.abs().max()
        worst = max(worst, float(apart))
    return max(0.0, worst - 8 * rounding)


def check_probes(distance: float) -> str | None:
    """What to warn of at this distance, if anything; `ModelMismatch` when edits would not be what they were."""
    if distance <= WARNING:
        return None
    told = (
        f"The base model answers its probes otherwise than when the store was made: logits differ by {distance:.1e} of "
        "the largest. Another version of torch or transformers, or another device, computes it differently."
    )
    if distance > REFUSAL:
        raise ModelMismatch(f"{told} Edits are refused; open the store where it was made, or for reading.")
    return told


@torch.no_grad()
def _logits(editable: EditableModel, prompt: str) -> torch.Tensor:
    """Float32 logits [vocabulary] of the next token, on the CPU."""
    ids = torch.tensor([tokens(editable.texts, prompt)[0]], device=editable.device)
    logits: torch.Tensor = editable.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits[0, -1].float().cpu()
