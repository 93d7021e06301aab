"""Generation against a pass over the whole text for every token, and the entropy of texts counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.model import tokens as passes
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.generation import greedy, n_gram_entropy, sampled
from tests.models import MODEL_TYPES, small_editable

PROMPTS = ["Ada Quill was born in", "Bo Lund", "Ada Lund", "In 1912 the company Norvik moved to ", "Town:\n", "Bo Lund"]


@torch.no_grad()
def plain(editable: EditableModel, prompt: str, length: int) -> list[int]:
    """The top token again and again: no cache, no batch."""
    ids = editable.tokenizer(prompt).input_ids
    start = len(ids)
    for _ in range(length):
        ids = [*ids, int(editable.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    return ids[start:]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("budget", [1, 70, 4_096])
def test_greedy_says_the_same_whatever_it_is_batched_with(
    monkeypatch: pytest.MonkeyPatch, model_type: str, budget: int
) -> None:
    monkeypatch.setattr(passes, "TOKENS_PER_BATCH", budget)
    editable = small_editable(model_type)
    expected = [editable.tokenizer.decode(plain(editable, p, 12), skip_special_tokens=True) for p in PROMPTS]
    assert greedy(editable, PROMPTS, 12) == expected
    assert greedy(editable, PROMPTS[::-1], 12)[::-1] == expected


def test_greedy_ends_before_the_stop_token() -> None:
    editable = small_editable("llama")
    said = {prompt: plain(editable, prompt, 12) for prompt in PROMPTS}
    for stop in sorted({ids[4] for ids in said.values()}):  # ends some texts, in one batch with others
        ends = [ids.index(stop) if stop in ids else 12 for ids in map(said.__getitem__, PROMPTS)]
        assert len(set(ends)) > 1
        cut = [
            editable.tokenizer.decode(said[p][:end], skip_special_tokens=True)
            for p, end in zip(PROMPTS, ends, strict=True)
        ]
        assert greedy(editable, PROMPTS, 12, stop) == cut


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_generation_ends_with_the_context(model_type: str) -> None:
    editable = small_editable(model_type)
    prompt = "Ada " * 25
    rest = editable.context_length - len(editable.tokenizer(prompt).input_ids)
    assert 0 < rest < 100
    assert greedy(editable, [prompt], 100) == greedy(editable, [prompt], rest)
    with pytest.raises(RequestError, match="the model takes 1 to 95"):
        greedy(editable, ["Ada " * 96], 1)


def test_draws_depend_on_the_prompt_and_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    editable = small_editable("llama")
    state = torch.get_rng_state()
    texts = sampled(editable, PROMPTS, 20, top=5)
    assert torch.equal(state, torch.get_rng_state())
    assert texts[1] == texts[-1] and len(set(texts)) == len(PROMPTS) - 1
    monkeypatch.setattr(passes, "TOKENS_PER_BATCH", 1)
    assert [sampled(editable, [prompt], 20, top=5)[0] for prompt in PROMPTS] == texts
    assert sampled(editable, PROMPTS, 20, top=5, seed=1) != texts
    assert sampled(editable, PROMPTS, 20, top=1) == greedy(editable, PROMPTS, 20)
    assert sampled(editable, [], 20, top=5) == greedy(editable, [], 20) == []


def test_draws_of_one_prompt_are_those_of_its_seeds_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    editable = small_editable("llama")
    one_by_one = [sampled(editable, [p], 12, top=5, seed=3 + n)[0] for p in PROMPTS[:2] for n in range(4)]
    assert sampled(editable, PROMPTS[:2], 12, top=5, seed=3, draws=4) == one_by_one and len(set(one_by_one)) == 8
    read, forward = [], editable.model.forward
    monkeypatch.setattr(editable.model, "forward", lambda **given: read.append(given["input_ids"]) or forward(**given))
    sampled(editable, PROMPTS[:1], 12, top=5, draws=4)
    assert [tuple(ids.shape) for ids in read[:2]] == [(1, len(editable.tokenizer(PROMPTS[0]).input_ids)), (4, 1)]


def test_a_drawn_text_ends_before_the_token_that_stops_it() -> None:
    editable = small_editable("llama")
    stop = plain(editable, PROMPTS[0], 5)[-1]
    (text,) = sampled(editable, PROMPTS[:1], 12, top=1, stop=stop)
    assert text == greedy(editable, PROMPTS[:1], 12, stop)[0] != sampled(editable, PROMPTS[:1], 12, top=1)[0]


def test_draws_follow_the_probabilities_of_the_top_tokens() -> None:
    editable = small_editable("llama")
    prompt, draws = "Bo Lund", 400
    with torch.no_grad():
        logits = editable.model(editable.tokenizer(prompt, return_tensors="pt").input_ids).logits[0, -1]
    best = logits.topk(3)
    found = [sampled(editable, [prompt], 1, top=3, seed=seed)[0] for seed in range(draws)]
    texts = [editable.tokenizer.decode([int(i)], skip_special_tokens=True) for i in best.indices]
    assert len(set(texts)) == 3 and set(found) <= set(texts)
    for text, share in zip(texts, best.values.softmax(-1).tolist(), strict=True):
        assert abs(found.count(text) / draws - share) < 4 * math.sqrt(share * (1 - share) / draws)


def test_entropy_of_texts_counted_by_hand() -> None:
    assert n_gram_entropy("") == n_gram_entropy("a") == n_gram_entropy("a a a a a") == 0.0
    assert n_gram_entropy("a b c") == pytest.approx(100 * (2 / 3 * 1 + 4 / 3 * 0) / 2)
    assert n_gram_entropy("a b a b a") == pytest.approx(100 * (2 / 3 * 1 + 4 / 3 * _bits(2, 1)) / 2)
    assert n_gram_entropy("Oran, near Marn.") == n_gram_entropy("a b c d e")  # punctuation marks are words
    assert n_gram_entropy(" ".join(map(str, range(101)))) == pytest.approx(
        100 * (2 / 3 * math.log2(100) + 4 / 3 * math.log2(99)) / 2
    )


def _bits(*counts: int) -> float:
    return -sum(count / sum(counts) * math.log2(count / sum(counts)) for count in counts)
