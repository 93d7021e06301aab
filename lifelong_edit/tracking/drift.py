"""Measure how far a model has moved from its base, on texts and prompts that no edit is about."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import fitting, next_tokens, predictions, tokens
from lifelong_edit.tracking.scores import NOT_A_NUMBER, SIGMAS, Figure, mean_figure

NO_TEXT = "No text has two tokens."
NO_PROMPTS = "There are no prompts."
Loss = tuple[float, int]  # sum over a text's predicted tokens of the negative log-probability (nats), how many


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """exp of the mean negative log-probability over all tokens of all texts but each text's first.

    Every text is cut at the model's context length. Raises `RequestError` when no text has a token to predict.
    """
    losses = [loss for loss in text_losses(model, tokenizer, texts) if loss]
    if not losses:
        raise RequestError("A perplexity needs texts of at least two tokens. Give longer texts.")
    return _exp(_token_mean(losses))


def measure_texts(editable: EditableModel, texts: Sequence[str]) -> dict[str, Figure]:
    """Measure three perplexities in one pass over the texts, each text cut at the model's context length.

    - `perplexity/tokens`: every token counts alike, as in `perplexity`; `each` holds the texts' own. Its interval is
      exp of the mean's, whose standard error takes a text for a cluster.
    - `perplexity/texts`: ME-PPL (arXiv 2402.09656), the mean of the texts' own perplexities. A few texts dominate it.
    - `log-perplexity/texts`: the mean of their logarithms, in nats.
    """
    losses = text_losses(editable.model, editable.tokenizer, texts)
    logarithms = [None if loss is None else loss[0] / loss[1] for loss in losses]
    own = [None if logarithm is None else _exp(logarithm) for logarithm in logarithms]
    pooled = _pooled_perplexity([loss for loss in losses if loss])
    return {
        "perplexity/tokens": replace(pooled, each=tuple(own)),
        "perplexity/texts": mean_figure(own, NO_TEXT),
        "log-perplexity/texts": mean_figure(logarithms, NO_TEXT),
    }


def text_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Loss | None]:
    """Compute the loss of every text; None for one that has no token to predict."""
    longest = int(model.config.max_position_embeddings)
    rows = [tokenizer(text, truncation=True, max_length=longest).input_ids for text in texts]
    numbers = [number for number, row in enumerate(rows) if len(row) > 1]
    losses: list[Loss | None] = [None] * len(rows)
    for place, found, _ in predictions(model, [rows[number] for number in numbers], [1] * len(numbers)):
        losses[numbers[place]] = -float(found.double().sum()), len(found)
    return losses


def next_log_probabilities(editable: EditableModel, prompts: Sequence[str]) -> Tensor:
    """Compute the log-probabilities [prompts, vocabulary] of the token after each prompt, float32."""
    found = torch.empty(len(prompts), int(editable.model.config.vocab_size))
    for numbers, log_probabilities in next_distributions(editable, prompts):
        found[numbers] = log_probabilities
    return found


def measure_next_tokens(editable: EditableModel, prompts: Sequence[str], base: Tensor) -> dict[str, Figure]:
    """Compare the distribution of the token after each prompt with `base`, log-probabilities [prompts, vocabulary].

    `next-token/kl`: KL(base || live) in nats. `next-token/agreement`: share of prompts with the same top token. Only a
    batch of the live model's distributions is held at a time.
    """
    needed = (len(prompts), int(editable.model.config.vocab_size))
    if base.shape != needed:
        raise RequestError(
            f"The base log-probabilities have the shape {tuple(base.shape)}, {len(prompts)} prompts of this model need "
            f"{needed}. Give those that next_log_probabilities has for the same prompts."
        )
    divergences, agreements = [0.0] * len(prompts), [0.0] * len(prompts)
    for numbers, live in next_distributions(editable, prompts):
        kept = base[numbers].float().log_softmax(-1)  # a narrow type's rounding is normalised away
        apart = (kept.exp() * (kept - live)).sum(-1).clamp(min=0)  # [rows]; of equal ones rounding may be below
        same = kept.argmax(-1) == live.argmax(-1)
        for place, number in enumerate(numbers):
            divergences[number], agreements[number] = float(apart[place]), float(same[place])
    return {
        "next-token/kl": mean_figure(divergences, NO_PROMPTS),
        "next-token/agreement": mean_figure(agreements, NO_PROMPTS),
    }


def next_distributions(editable: EditableModel, prompts: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
    """Predict the token after each prompt: batches of numbers of prompts, log-probabilities [numbers, vocabulary]."""
    ids = [tokens(editable.texts, editable.texts.rule.asked(prompt))[0] for prompt in prompts]
    rows = [fitting(row, prompt, editable.context_length) for row, prompt in zip(ids, prompts, strict=True)]
    return next_tokens(editable.model, rows)


def _pooled_perplexity(losses: Sequence[Loss]) -> Figure:
    """exp of the mean loss of a token, with the error of a ratio estimator over the texts."""
    if not losses:
        return Figure(None, 0, reason=NO_TEXT)
    mean, count = _token_mean(losses), len(losses)
    value = _exp(mean)
    if math.isnan(value):
        return Figure(None, count, reason=NOT_A_NUMBER)
    if count == 1 or math.isinf(value):
        return Figure(value, count)
    # Tokens of one text are not independent: the error is that of a ratio of sums over texts.
    squares = math.fsum((loss - mean * length) ** 2 for loss, length in losses)
    error = math.sqrt(squares * count / (count - 1)) / sum(length for _, length in losses)
    return Figure(value, count, value * error, (_exp(mean - SIGMAS * error), _exp(mean + SIGMAS * error)))


def _token_mean(losses: Sequence[Loss]) -> float:
    return sum(loss for loss, _ in losses) / sum(length for _, length in losses)


def _exp(logarithm: float) -> float:
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf
