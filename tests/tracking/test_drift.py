"""Perplexity against a sum over one token after the other."""

from __future__ import annotations

import math

import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking import scores
from lifelong_edit.tracking.drift import perplexity
from tests.models import SENTENCES, byte_level, small_editable, small_model

TEXTS = [*SENTENCES, "Oran."]


@torch.no_grad()
def brute_force(editable: EditableModel, texts: list[str]) -> float:
    """The probability of every token but the first, from a pass over what stands before it."""
    nlls = []
    for text in texts:
        ids = editable.tokenizer(text).input_ids
        for end in range(1, len(ids)):
            logits = editable.model(input_ids=torch.tensor([ids[:end]])).logits[0, -1]
            nlls.append(-float(torch.softmax(logits.double(), -1)[ids[end]].log()))
    return math.exp(sum(nlls) / len(nlls))


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_perplexity_counts_every_token_alike(model_type: str) -> None:
    editable = small_editable(model_type)
    expected = brute_force(editable, TEXTS)
    assert perplexity(editable.model, editable.tokenizer, TEXTS) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("budget", [1, 100])
def test_batching_does_not_matter(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    editable = small_editable("llama")
    expected = perplexity(editable.model, editable.tokenizer, TEXTS)
    monkeypatch.setattr(scores, "TOKENS_PER_BATCH", budget)
    assert perplexity(editable.model, editable.tokenizer, TEXTS[::-1]) == pytest.approx(expected, rel=1e-5)


def test_a_bfloat16_model_is_summed_in_float32() -> None:
    editable = small_editable("llama", torch.bfloat16)
    many = TEXTS * 20
    once, often = (perplexity(editable.model, editable.tokenizer, texts) for texts in (TEXTS, many))
    assert often == pytest.approx(once, rel=1e-2)


def test_a_long_text_is_cut_at_the_context_length() -> None:
    tokenizer = byte_level(bos=True)
    model = small_model("gpt2", len(tokenizer)).eval()
    assert len(tokenizer(" ".join(SENTENCES * 9)).input_ids) > 2 * model.config.max_position_embeddings
    one, other = (perplexity(model, tokenizer, [" ".join(SENTENCES * times)]) for times in (9, 10))
    assert one == other


def test_texts_without_a_token_to_predict_are_an_error() -> None:
    editable = small_editable("llama")
    for texts in ([], [""], ["a"]):
        with pytest.raises(RequestError, match="at least two tokens"):
            perplexity(editable.model, editable.tokenizer, texts)
