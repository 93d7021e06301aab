"""Perplexities against a sum over one token after the other, and next tokens against one pass a prompt."""

from __future__ import annotations

import math

import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.model import tokens as passes
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.drift import (
    measure_next_tokens,
    measure_texts,
    next_log_probabilities,
    perplexity,
)
from lifelong_edit.tracking.scores import NOT_A_NUMBER
from tests.models import SENTENCES, byte_level, small_editable, small_model

TEXTS = [*SENTENCES, "Oran."]
PROMPTS = [text[:20] for text in SENTENCES] + ["Bo", "The mother tongue of Ada Quill is", "Bo"]


@torch.no_grad()
def losses(editable: EditableModel, text: str) -> list[float]:
    """Minus the logarithm of the probability of every token but the first, from a pass over what stands before it."""
    ids, nlls = editable.tokenizer(text).input_ids, []
    for end in range(1, len(ids)):
        logits = editable.model(input_ids=torch.tensor([ids[:end]])).logits[0, -1]
        nlls.append(-float(torch.softmax(logits.double(), -1)[ids[end]].log()))
    return nlls


def brute_force(editable: EditableModel, texts: list[str]) -> float:
    nlls = [loss for text in texts for loss in losses(editable, text)]
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
    monkeypatch.setattr(passes, "TOKENS_PER_BATCH", budget)
    assert perplexity(editable.model, editable.tokenizer, TEXTS[::-1]) == pytest.approx(expected, rel=1e-5)


def test_a_large_vocabulary_makes_passes_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass makes more logits than are allowed, for all of which there is room."""
    editable, made = small_editable("llama"), list[int]()
    allowed = editable.context_length * editable.model.config.vocab_size
    monkeypatch.setattr(passes, "LOGITS_PER_BATCH", allowed)
    editable.model.lm_head.register_forward_hook(lambda _module, _inputs, logits: made.append(logits.numel()))
    perplexity(editable.model, editable.tokenizer, TEXTS * 5)
    assert len(made) > 1 and max(made) <= allowed


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


def test_the_three_perplexities_weigh_tokens_or_texts() -> None:
    editable = small_editable("llama")
    nlls = [losses(editable, text) for text in TEXTS]
    means = [sum(own) / len(own) for own in nlls]
    found = measure_texts(editable, ["a", *TEXTS])  # the first has nothing to predict
    pooled, texts, logs = found["perplexity/tokens"], found["perplexity/texts"], found["log-perplexity/texts"]
    assert pooled.value == pytest.approx(perplexity(editable.model, editable.tokenizer, TEXTS), rel=1e-6)
    assert texts.value == pytest.approx(sum(map(math.exp, means)) / len(means), rel=1e-4)
    assert logs.value == pytest.approx(sum(means) / len(means), rel=1e-4)
    assert pooled.each == texts.each and texts.each[0] is None is logs.each[0]
    assert pooled.count == texts.count == logs.count == len(TEXTS)


def test_the_interval_takes_a_text_for_one_piece_of_evidence() -> None:
    editable = small_editable("llama")
    found = measure_texts(editable, TEXTS)["perplexity/tokens"]
    nlls = [losses(editable, text) for text in TEXTS]
    tokens, n = sum(map(len, nlls)), len(nlls)
    mean = sum(map(sum, nlls)) / tokens
    error = math.sqrt(n / (n - 1) * sum((sum(own) - mean * len(own)) ** 2 for own in nlls)) / tokens
    assert found.error == pytest.approx(math.exp(mean) * error, rel=1e-3)
    assert found.interval == pytest.approx((math.exp(mean - 1.96 * error), math.exp(mean + 1.96 * error)), rel=1e-4)
    copied = measure_texts(editable, [" ".join([text] * 3) for text in TEXTS])["perplexity/tokens"]
    assert copied.count == n and copied.error  # three times the tokens are no more texts


def test_one_text_has_no_interval_and_none_has_a_reason() -> None:
    editable = small_editable("llama")
    one = measure_texts(editable, TEXTS[:1])["perplexity/tokens"]
    assert one.value and one.count == 1 and one.error is None is one.interval
    for texts in ([], ["a"]):
        assert {(f.value, f.reason) for f in measure_texts(editable, texts).values()} == {
            (None, "No text has two tokens.")
        }


def test_a_broken_model_has_an_infinite_perplexity_or_none_but_a_reason() -> None:
    editable = small_editable("gpt2")
    head = editable.model.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(1e5)
    found = measure_texts(editable, TEXTS)
    assert found["perplexity/tokens"].value == found["perplexity/texts"].value == math.inf
    assert found["perplexity/tokens"].error is None is found["perplexity/texts"].error
    assert (found["log-perplexity/texts"].value or 0) > 709
    with torch.no_grad():
        head.weight.fill_(torch.nan)
    assert {(f.value, f.reason) for f in measure_texts(editable, TEXTS).values()} == {(None, NOT_A_NUMBER)}


@torch.no_grad()
def plain_next(editable: EditableModel, prompt: str) -> torch.Tensor:
    ids = editable.tokenizer(prompt, return_tensors="pt").input_ids
    return editable.model(ids).logits[0, -1].double().log_softmax(-1)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("budget", [1, 30, 4_096])
def test_next_tokens_are_those_of_one_pass_a_prompt(
    monkeypatch: pytest.MonkeyPatch, model_type: str, budget: int
) -> None:
    monkeypatch.setattr(passes, "TOKENS_PER_BATCH", budget)
    base, edited = small_editable(model_type), small_editable(model_type, seed=1)
    kept = next_log_probabilities(base, PROMPTS)
    before = torch.stack([plain_next(base, prompt) for prompt in PROMPTS])
    after = torch.stack([plain_next(edited, prompt) for prompt in PROMPTS])
    torch.testing.assert_close(kept.double(), before, rtol=0, atol=1e-4)
    divergences = (before.exp() * (before - after)).sum(-1).tolist()
    found = measure_next_tokens(edited, PROMPTS, kept)
    assert found["next-token/kl"].each == pytest.approx(divergences, rel=1e-3)
    assert found["next-token/kl"].value == pytest.approx(sum(divergences) / len(PROMPTS), rel=1e-3)
    same = [float(a == b) for a, b in zip(before.argmax(-1), after.argmax(-1), strict=True)]
    assert list(found["next-token/agreement"].each) == same


def test_a_model_does_not_drift_from_itself() -> None:
    editable = small_editable("llama")
    base = next_log_probabilities(editable, PROMPTS)
    found = measure_next_tokens(editable, PROMPTS, base)
    assert found["next-token/kl"].value == pytest.approx(0, abs=1e-6) and found["next-token/agreement"].value == 1.0
    narrow = measure_next_tokens(editable, PROMPTS, base.bfloat16())["next-token/kl"]
    assert min(map(float, narrow.each)) >= -1e-6 and float(narrow.value) < 1e-3  # kept in half the room
    shifted = measure_next_tokens(editable, PROMPTS, base + 0.5)["next-token/kl"]
    assert shifted.value == pytest.approx(0, abs=1e-6)  # they need not be normalised


def test_drift_without_prompts_has_a_reason_and_with_others_is_an_error() -> None:
    editable = small_editable("llama")
    base = next_log_probabilities(editable, PROMPTS)
    empty = measure_next_tokens(editable, [], base[:0])
    assert {figure.reason for figure in empty.values()} == {"There are no prompts."}
    for other in (base[:-1], base[:, :-1], base[0]):
        with pytest.raises(RequestError, match="Give those that next_log_probabilities has"):
            measure_next_tokens(editable, PROMPTS, other)
