"""What a model answers: teacher-forced scores of continuations, the base of every measured figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

TOKENS_PER_BATCH = 4_096


@dataclass(frozen=True, slots=True)
class Score:
    """`nll`: mean negative log-probability of the target's tokens (nats); `argmax`: whether each is the top token."""

    nll: float
    argmax: bool


@torch.no_grad()
def score_continuations(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Score]:
    """A `Score` for every (prompt, target), the target following the prompt after one blank.

    Teacher-forced and length-normalised as CounterFact's evaluation defines it (ROME, arXiv 2202.05262). Rows are
    padded on the right and batched by a budget of tokens, longest first; the answer does not depend on the batching.
    """
    encoded = [_encode(tokenizer, prompt, target) for prompt, target in pairs]
    order = sorted(range(len(pairs)), key=lambda i: -len(encoded[i][0]))
    scores: dict[int, Score] = {}
    start = 0
    while start < len(order):
        width = len(encoded[order[start]][0])
        chunk = order[start : start + max(1, TOKENS_PER_BATCH // width)]
        start += len(chunk)
        ids = pad_sequence([torch.tensor(encoded[i][0]) for i in chunk], batch_first=True)  # [B, T]
        lengths = torch.tensor([len(encoded[i][0]) for i in chunk])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits  # [B, T, vocab]
        logits = logits.float().cpu()
        for row, i in enumerate(chunk):
            whole, first = encoded[i]
            target = torch.tensor(whole[first:])
            predicted = logits[row, first - 1 : len(whole) - 1]  # [target, vocab]
            picked = predicted.log_softmax(-1).gather(1, target[:, None])
            scores[i] = Score(-picked.mean().item(), bool((predicted.argmax(-1) == target).all()))
    return [scores[i] for i in range(len(pairs))]


def argmax_rate(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> float:
    """Share of `pairs` whose target's tokens are all the model's first choice."""
    scores = score_continuations(model, tokenizer, pairs)
    return sum(score.argmax for score in scores) / len(scores)


def _encode(tokenizer: Any, prompt: str, target: str) -> tuple[list[int], int]:
    head = tokenizer(prompt.rstrip()).input_ids
    return head + tokenizer(" " + target.strip(), add_special_tokens=False).input_ids, len(head)
