"""Probes: what the base model answered to a few prompts when the store was made, so that drift is noticed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.errors import ModelMismatch, StoreCorrupt
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import pad_rows, tokens
from lifelong_edit.store.ledger import ProbeAnswers

PROMPTS, TOKENS = 8, 16
WARNING, REFUSAL = 1e-4, 1e-2  # largest difference of a logit, relative to the largest logit


def take_probes(editable: EditableModel, seed: int) -> ProbeAnswers:
    """The likeliest tokens after a few sampled prompts and their logits, as plain JSON values."""
    prompts = list(sample_contexts(editable, PROMPTS, seed))
    best = [logits.topk(TOKENS) for logits in _logits(editable, prompts)]
    return {
        "prompts": prompts,
        "tokens": [found.indices.tolist() for found in best],
        "logits": [found.values.tolist() for found in best],
        "dtype": str(editable.dtype).removeprefix("torch."),
    }


def probe_distance(editable: EditableModel, probes: ProbeAnswers) -> float:
    """How far the model's logits are from the recorded ones, relative to the largest; rounding of the dtypes aside.

    `StoreCorrupt` when what was recorded cannot be the answers of this model.
    """
    if not _possible(editable, probes):
        raise StoreCorrupt("ledger entry 0: its field 'probes' has no answers of this model. Restore a backup.")
    rounding = max(torch.finfo(dtype).eps for dtype in (editable.dtype, getattr(torch, probes["dtype"])))
    worst, now = 0.0, _logits(editable, probes["prompts"])
    for found, ids, logits in zip(now, probes["tokens"], probes["logits"], strict=True):
        recorded = torch.tensor(logits)
        apart = (found[ids] - recorded).abs().max() / recorded.abs().max()
        worst = max(worst, float(apart))
    return max(0.0, worst - 8 * rounding)


def _possible(editable: EditableModel, probes: ProbeAnswers) -> bool:
    """Whether there are as many answers as prompts, of tokens that the model has, in a dtype that PyTorch has."""
    dtype, rows = getattr(torch, probes["dtype"], None), [tokens(editable.texts, text)[0] for text in probes["prompts"]]
    vocabulary, answered = int(editable.model.config.vocab_size), (len(probes["tokens"]), len(probes["logits"]))
    return (
        isinstance(dtype, torch.dtype)
        and dtype.is_floating_point
        and answered == (len(rows),) * 2 != (0, 0)
        and all(0 < len(row) <= editable.context_length for row in rows)
        and all(len(ids) == len(own) > 0 for ids, own in zip(probes["tokens"], probes["logits"], strict=True))
        and all(0 <= id < vocabulary for ids in probes["tokens"] for id in ids)
    )


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
def _logits(editable: EditableModel, prompts: Sequence[str]) -> torch.Tensor:
    """Float32 logits [prompts, vocabulary] of the next token, on the CPU; one pass for all."""
    rows = [tokens(editable.texts, prompt)[0] for prompt in prompts]
    padded = pad_rows(rows, [len(row) - 1 for row in rows], editable.pad_id, editable.device)
    last = torch.full((len(rows),), padded.pivot, device=editable.device)
    with editable.head_at(torch.arange(len(rows), device=editable.device), last):
        logits: torch.Tensor = editable.model(
            input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.position_ids, use_cache=False
        ).logits
    return logits[0].float().cpu()
