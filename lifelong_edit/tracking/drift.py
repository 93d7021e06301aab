"""How far a model has moved from its base on text that no edit is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lifelong_edit.errors import RequestError
from lifelong_edit.tracking.scores import predictions


def perplexity(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """exp of the mean negative log-probability over all tokens of all texts but each text's first.

    Every text is cut at the model's context length. Raises `RequestError` when no text has a token to predict.
    """
    longest = int(model.config.max_position_embeddings)
    rows = [tokenizer(text, truncation=True, max_length=longest).input_ids for text in texts]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise RequestError("A perplexity needs texts of at least two tokens. Give longer texts.")
    total = sum(float(found.double().sum()) for _, found, _ in predictions(model, rows, [1] * len(rows)))
    try:
        return math.exp(-total / sum(len(row) - 1 for row in rows))
    except OverflowError:
        return math.inf
