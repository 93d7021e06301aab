"""What "known" means on a model: how firmly the base says the true statements that a store is made with."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

import torch
from torch import Tensor

from lifelong_edit.facts import canonical_digest, parted
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import answer_leads, continuation, tokens

ASKED = 300  # statements, drawn with the store's seed
QUARTILES = (0.25, 0.5, 0.75)


def known_in(editable: EditableModel, statements: Sequence[str], seed: int) -> dict[str, Any]:
    """Ask the base for the last word of each statement, and measure how firmly it says those it does; plain JSON.

    `asked` and `said` count statements. Of those said there are quartiles: of `probability`, the geometric mean over
    the word's tokens, and of `margin`, the nats by which the word's weakest token lies above the likeliest other one.
    """
    pairs = [pair for pair in map(parted, dict.fromkeys(statements)) if pair]
    asked = list[tuple[list[int], list[int]]]()
    for prompt, word in nsmallest(ASKED, pairs, key=lambda pair: canonical_digest([seed, *pair])):
        head, target = tokens(editable.texts, prompt)[0], continuation(editable.texts, prompt, word)
        if len(head) + len(target) <= editable.context_length:
            asked.append((head, target))
    found = answer_leads(editable.model, asked)
    said = [lead for lead in found if bool((lead.margins > 0).all())]
    return {
        "asked": len(asked),
        "said": len(said),
        "probability": _quartiles([lead.log_probabilities.mean().exp() for lead in said]),
        "margin": _quartiles([lead.margins.min() for lead in said]),
    }


def _quartiles(values: Sequence[Tensor]) -> list[float]:
    """Three numbers, or none where there are no values."""
    if not values:
        return []
    found = torch.stack(list(values)).double().quantile(torch.tensor(QUARTILES, dtype=torch.float64))
    return [round(value, 4) for value in found.tolist()]
