"""Scores against one plain forward pass a continuation, and CounterFact's figures against a count by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking import scores
from lifelong_edit.tracking.scores import EditScores, Score, argmax_rate, score_continuations, score_edits
from tests.models import ATTENTION, TOKENIZERS, small_editable, small_model

PAIRS = [
    ("Ada Quill was born in", "Tarsis"),
    ("In 1912 the company Norvik moved its headquarters to", "Kessel, near the Ösel river"),
    ("The mother tongue of Émile Zorn is ", " Veltish"),
    ("Bo", "Lund"),
    ("Where does Bo Lund live? He lives in", "Marn"),
]


@torch.no_grad()
def plain(model: Any, ids: list[int], first: int) -> Score:
    """One row, no padding, every logit; no code of the package."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    nll, top = 0.0, True
    for place in range(first, len(ids)):
        probabilities = torch.softmax(logits[place - 1], -1)
        nll -= float(probabilities[ids[place]].log())
        top = top and int(probabilities.argmax()) == ids[place]
    return Score(nll / (len(ids) - first), top)


def rows(tokenizer: Any, pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Byte-level tokenizers only: the target with its blank stands alone."""
    heads = [tokenizer(prompt.strip()).input_ids for prompt, _ in pairs]
    tails = [tokenizer(" " + target.strip(), add_special_tokens=False).input_ids for _, target in pairs]
    return [(head + tail, len(head)) for head, tail in zip(heads, tails, strict=True)]


def close(one: list[Score], other: list[Score]) -> bool:
    nlls = [torch.tensor([score.nll for score in own]) for own in (one, other)]
    return torch.allclose(*nlls, rtol=1e-4, atol=1e-5) and [s.argmax for s in one] == [s.argmax for s in other]


@pytest.mark.parametrize(("model_type", "attention"), ATTENTION)
def test_scores_are_those_of_a_plain_forward_pass(model_type: str, attention: str) -> None:
    editable = small_editable(model_type, attention=attention)
    expected = [plain(editable.model, ids, first) for ids, first in rows(editable.tokenizer, PAIRS)]
    assert close(score_continuations(editable.model, editable.tokenizer, PAIRS), expected)


@pytest.mark.parametrize("budget", [1, 40, 4_096])
def test_batching_and_order_do_not_matter(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    editable = small_editable("llama")
    expected = score_continuations(editable.model, editable.tokenizer, PAIRS)
    monkeypatch.setattr(scores, "TOKENS_PER_BATCH", budget)
    assert close(score_continuations(editable.model, editable.tokenizer, PAIRS), expected)
    assert close(score_continuations(editable.model, editable.tokenizer, PAIRS[::-1])[::-1], expected)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prompt_has_its_bos_and_no_end_before_the_target(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    model = small_model("llama", len(tokenizer))
    for pair in PAIRS:
        whole = tokenizer(" ".join(part.strip() for part in pair)).input_ids
        head = tokenizer(pair[0].strip()).input_ids
        if tokenizer.eos_token_id == whole[-1]:
            whole, head = whole[:-1], head[:-1]
        if whole[: len(head)] == head:
            expected = plain(model, whole, len(head))
            assert close(score_continuations(model, tokenizer, [pair]), [expected])


def test_what_the_model_says_itself_is_its_first_choice() -> None:
    editable = small_editable("llama")
    prompt = "Bo Lund"
    ids = editable.tokenizer(prompt, return_tensors="pt").input_ids
    said = editable.tokenizer.decode(editable.model(ids).logits[0, -1].argmax())
    pairs = [(prompt, " " + target) for target in ("Tarsis", "Oran", "Marn")]
    expected = [said.startswith(" ") and said.strip() == target.strip() for _, target in pairs]
    assert argmax_rate(editable.model, editable.tokenizer, pairs) == sum(expected) / 3


def test_the_rate_is_the_share_of_first_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "score_continuations", lambda *_: [Score(0.1, True), Score(9.0, False)])
    assert argmax_rate(None, None, PAIRS[:2]) == 0.5


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(RequestError, match="nothing to score"):
        argmax_rate(None, None, [])


def test_scoring_leaves_no_hook_behind() -> None:
    editable = small_editable("gpt2")
    score_continuations(editable.model, editable.tokenizer, PAIRS)
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in editable.model.modules())


REQUESTS = [
    EditRequest(
        prompt="{} was born in",
        subject="Ada",
        target_new="Oran",
        target_true="Marn",
        paraphrase_prompts=("Where was Ada born?", "The birthplace of Ada is"),
        neighborhood_prompts=("Bo was born in", "Émile was born in", "Ana was born in"),
        attribute_prompts=(("Ada lives in", "Kessel"), ("Ada speaks", "Veltish")),
    ),
    EditRequest(
        prompt="{} was born in",
        subject="Zorn",
        target_new="Tarsis",
        target_true="Oran",
        paraphrase_prompts=("The birthplace of Zorn is",),
    ),
    EditRequest(prompt="{} lives in", subject="Lund", target_new="Marn"),
]
TABLE = {
    ("Ada was born in", "Oran"): Score(0.1, True),
    ("Ada was born in", "Marn"): Score(5.0, False),
    ("Where was Ada born?", "Oran"): Score(3.0, False),
    ("Where was Ada born?", "Marn"): Score(3.0, False),
    ("The birthplace of Ada is", "Oran"): Score(0.3, True),
    ("The birthplace of Ada is", "Marn"): Score(2.0, False),
    ("Bo was born in", "Marn"): Score(0.2, True),
    ("Bo was born in", "Oran"): Score(4.0, False),
    ("Émile was born in", "Marn"): Score(1.0, False),
    ("Émile was born in", "Oran"): Score(4.0, False),
    ("Ana was born in", "Marn"): Score(4.0, False),
    ("Ana was born in", "Oran"): Score(0.1, True),
    ("Ada lives in", "Kessel"): Score(0.2, True),
    ("Ada speaks", "Veltish"): Score(7.0, False),
    ("Zorn was born in", "Tarsis"): Score(4.0, False),
    ("Zorn was born in", "Oran"): Score(0.5, True),
    ("The birthplace of Zorn is", "Tarsis"): Score(0.5, True),
    ("The birthplace of Zorn is", "Oran"): Score(1.5, False),
    ("Lund lives in", "Marn"): Score(0.1, True),
}


def test_figures_are_means_over_prompts_then_over_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def look_up(_model: Any, _tokenizer: Any, pairs: list[tuple[str, str]]) -> list[Score]:
        asked.extend(pairs)
        return [TABLE[pair] for pair in pairs]

    monkeypatch.setattr(scores, "score_continuations", look_up)
    found = score_edits(small_editable("llama"), REQUESTS)
    assert found == EditScores(
        es=(1 + 0) / 2,
        ps=(1 / 2 + 1) / 2,  # a tie is no success
        ns=2 / 3,
        ea=(1 + 0 + 1) / 3,
        pa=(1 / 2 + 1) / 2,
        na=1 / 3,
        aa=1 / 2,
    )
    assert sorted(asked) == sorted(TABLE)  # each once


def test_figures_without_their_inputs_are_none() -> None:
    editable = small_editable("llama")
    assert score_edits(editable, []) == EditScores(*[None] * 7)
    found = score_edits(editable, [REQUESTS[2]])
    assert (found.es, found.ps, found.ns, found.pa, found.na, found.aa) == (None,) * 6
    assert found.ea in (0.0, 1.0)


def test_figures_of_a_model_are_those_of_its_plain_scores(editable: EditableModel) -> None:
    def score(prompt: str, target: str) -> Score:
        return plain(editable.model, *rows(editable.tokenizer, [(prompt, target)])[0])

    request = REQUESTS[0]
    new, true = request.target_new, str(request.target_true)
    wins = [score(p, new).nll < score(p, true).nll for p in request.paraphrase_prompts]
    holds = [score(p, true).nll < score(p, new).nll for p in request.neighborhood_prompts]
    found = score_edits(editable, [request])
    assert found.es == float(score(request.question, new).nll < score(request.question, true).nll)
    assert (found.ps, found.ns) == (sum(wins) / 2, sum(holds) / 3)


@pytest.fixture(params=range(3))
def editable(request: pytest.FixtureRequest) -> EditableModel:
    return small_editable("llama", seed=request.param)
