"""Scores against one plain forward pass a continuation, and the metrics against a count by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model import tokens as passes
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking import scores
from lifelong_edit.tracking.generation import greedy, n_gram_entropy, sampled
from lifelong_edit.tracking.scores import (
    METRICS,
    NOT_A_NUMBER,
    EditScores,
    Figure,
    Score,
    argmax_rate,
    measure,
    score_continuations,
    score_edits,
)
from tests.models import ATTENTION, TOKENIZERS, small_editable, small_model

PAIRS = [
    ("Ada Quill was born in", "Tarsis"),
    ("In 1912 the company Norvik moved its headquarters to", "Kessel, near the Ösel river"),
    ("The mother tongue of Émile Zorn is", " Veltish"),
    ("Where does Bo Lund live?\n", "Marn"),
    ('He works in "', "Oran"),
    ("Bo", "Lund"),
    ("Where does Bo Lund live? He lives in", "Marn"),
]


@torch.no_grad()
def plain(model: Any, ids: list[int], first: int) -> Score:
    """One row, no padding, every logit; no code of the package."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    nll, right = 0.0, 0
    for place in range(first, len(ids)):
        probabilities = torch.softmax(logits[place - 1], -1)
        nll -= float(probabilities[ids[place]].log())
        right += int(probabilities.argmax()) == ids[place]
    return Score(nll / (len(ids) - first), right / (len(ids) - first))


def rows(tokenizer: Any, pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Byte-level tokenizers only: the target with its blank, which words need, stands alone."""
    heads = [tokenizer(prompt).input_ids for prompt, _ in pairs]
    spelt = [" " + target.strip() if prompt[-1].isalnum() or prompt[-1] == "?" else target for prompt, target in pairs]
    tails = [tokenizer(target, add_special_tokens=False).input_ids for target in spelt]
    return [(head + tail, len(head)) for head, tail in zip(heads, tails, strict=True)]


def close(one: list[Score], other: list[Score]) -> bool:
    nlls = [torch.tensor([score.nll for score in own]) for own in (one, other)]
    return torch.allclose(*nlls, rtol=1e-4, atol=1e-5) and [s.accuracy for s in one] == [s.accuracy for s in other]


@pytest.mark.parametrize(("model_type", "attention"), ATTENTION)
def test_scores_are_those_of_a_plain_forward_pass(model_type: str, attention: str) -> None:
    editable = small_editable(model_type, attention=attention)
    expected = [plain(editable.model, ids, first) for ids, first in rows(editable.tokenizer, PAIRS)]
    assert close(score_continuations(editable.model, editable.tokenizer, PAIRS), expected)


@pytest.mark.parametrize("budget", [1, 40, 4_096])
def test_batching_and_order_do_not_matter(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    editable = small_editable("llama")
    expected = score_continuations(editable.model, editable.tokenizer, PAIRS)
    monkeypatch.setattr(passes, "TOKENS_PER_BATCH", budget)
    assert close(score_continuations(editable.model, editable.tokenizer, PAIRS), expected)
    assert close(score_continuations(editable.model, editable.tokenizer, PAIRS[::-1])[::-1], expected)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prompt_has_its_bos_and_no_end_before_the_target(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    model = small_model("llama", len(tokenizer))
    for pair in PAIRS:
        whole = tokenizer((" " if pair[0][-1].isalnum() else "").join((pair[0], pair[1].strip()))).input_ids
        head = tokenizer(pair[0]).input_ids
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
    monkeypatch.setattr(scores, "score_continuations", lambda *_: [Score(0.1, 1.0), Score(9.0, 0.9)])
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
    ("Ada was born in", "Oran"): Score(0.1, 1.0),
    ("Ada was born in", "Marn"): Score(5.0, 0.0),
    ("Where was Ada born?", "Oran"): Score(3.0, 0.5),
    ("Where was Ada born?", "Marn"): Score(3.0, 0.0),
    ("The birthplace of Ada is", "Oran"): Score(0.3, 1.0),
    ("The birthplace of Ada is", "Marn"): Score(2.0, 0.0),
    ("Bo was born in", "Marn"): Score(0.2, 1.0),
    ("Bo was born in", "Oran"): Score(4.0, 0.0),
    ("Émile was born in", "Marn"): Score(1.0, 0.0),
    ("Émile was born in", "Oran"): Score(4.0, 0.0),
    ("Ana was born in", "Marn"): Score(4.0, 0.75),
    ("Ana was born in", "Oran"): Score(0.1, 1.0),
    ("Ada lives in", "Kessel"): Score(0.2, 1.0),
    ("Ada speaks", "Veltish"): Score(7.0, 0.0),
    ("Zorn was born in", "Tarsis"): Score(4.0, 0.0),
    ("Zorn was born in", "Oran"): Score(0.5, 1.0),
    ("The birthplace of Zorn is", "Tarsis"): Score(0.5, 1.0),
    ("The birthplace of Zorn is", "Oran"): Score(1.5, 0.0),
    ("Lund lives in", "Marn"): Score(0.1, 1.0),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Lets TABLE answer instead of a model, and notes what is asked."""
    pairs: list[tuple[str, str]] = []

    def look_up(_model: Any, _tokenizer: Any, wanted: list[tuple[str, str]]) -> list[Score]:
        pairs.extend(wanted)
        return [TABLE[pair] for pair in wanted]

    monkeypatch.setattr(scores, "score_continuations", look_up)
    return pairs


def test_figures_are_means_over_prompts_then_over_requests(asked: list[tuple[str, str]]) -> None:
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


def test_magnitudes_and_token_accuracies_are_means_too(asked: list[tuple[str, str]]) -> None:
    places = ("rewrite", "paraphrase", "neighbourhood")
    names = [*(f"{place}/magnitude" for place in places), *(f"{place}/token-accuracy" for place in places)]
    found = measure(small_editable("llama"), REQUESTS, [*names, "attribute/token-accuracy", "harmonic/prob"])
    e = math.exp
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {
            "rewrite/magnitude": (e(-0.1) - e(-5) + e(-4) - e(-0.5)) / 2,
            "paraphrase/magnitude": ((0 + e(-0.3) - e(-2)) / 2 + e(-0.5) - e(-1.5)) / 2,
            "neighbourhood/magnitude": (e(-0.2) - e(-4) + e(-1) - e(-4) + e(-4) - e(-0.1)) / 3,
            "rewrite/token-accuracy": (1 + 0 + 1) / 3,
            "paraphrase/token-accuracy": (0.75 + 1) / 2,
            "neighbourhood/token-accuracy": 1.75 / 3,
            "attribute/token-accuracy": 1 / 2,
            "harmonic/prob": 3 / (2 + 4 / 3 + 3 / 2),
        }
    )
    assert found["paraphrase/token-accuracy"] == Figure(0.875, 2, pytest.approx(0.125), each=(0.75, 1.0, None))
    assert found["harmonic/prob"].count == 1  # the neighbourhood's


def test_the_harmonic_mean_is_zero_where_a_comparison_always_fails(asked: list[tuple[str, str]]) -> None:
    request = dataclasses.replace(REQUESTS[0], neighborhood_prompts=("Ana was born in",))
    found = measure(small_editable("llama"), [request], ["harmonic/prob", "rewrite/prob"])
    assert found["harmonic/prob"] == Figure(0.0, 1)
    assert found["rewrite/prob"] == Figure(1.0, 1, each=(1.0,))  # one request: no error can be told


def test_figures_without_their_inputs_are_none() -> None:
    editable = small_editable("llama")
    assert score_edits(editable, []) == EditScores(*[None] * 7)
    found = score_edits(editable, [REQUESTS[2]])
    assert (found.es, found.ps, found.ns, found.pa, found.na, found.aa) == (None,) * 6
    assert found.ea in (0.0, 1.0)


@pytest.mark.parametrize("name", [*METRICS, "harmonic/prob"])
def test_every_metric_says_what_it_lacks(name: str) -> None:
    editable = small_editable("llama")
    bare, nothing = measure(editable, [REQUESTS[2]], [name])[name], measure(editable, [], [name])[name]
    assert nothing.value is None and nothing.count == 0 and nothing.reason == "There are no requests."
    if name in ("rewrite/argmax", "rewrite/token-accuracy", "rewrite/greedy"):
        assert bare.value is not None and bare.count == 1 and bare.reason is None
    else:
        assert bare.value is None and bare.count == 0 and bare.reason and bare.reason.startswith("No request has ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rewrite/prob", "No request has a true target."),
        ("paraphrase/magnitude", "No request has paraphrase prompts and a true target."),
        ("paraphrase/argmax", "No request has paraphrase prompts."),
        ("neighbourhood/prob", "No request has neighbourhood prompts and a true target."),
        ("generation/top-5-entropy", "No request has generation prompts."),
    ],
)
def test_a_reason_names_the_inputs(name: str, reason: str) -> None:
    assert measure(small_editable("llama"), [REQUESTS[2]], [name])[name].reason == reason


def test_neighbours_without_a_true_target_are_no_evidence() -> None:
    request = dataclasses.replace(REQUESTS[0], target_true=None)
    for name in ("neighbourhood/prob", "neighbourhood/argmax", "neighbourhood/greedy"):
        assert measure(small_editable("llama"), [request], [name])[name].value is None


def test_a_neighbour_with_its_own_answer_is_asked_for_that(
    asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = dataclasses.replace(REQUESTS[0], target_true=None, neighborhood_prompts=(("Ada lives in", "Kessel"), "Bo is"))
    monkeypatch.setitem(TABLE, ("Ada lives in", "Oran"), Score(0.1, 0.0))
    names = ("neighbourhood/argmax", "neighbourhood/prob")
    found = measure(small_editable("llama"), [own], names)
    assert [found[name].value for name in names] == [1.0, 0.0]
    assert set(asked) == {("Ada lives in", "Kessel"), ("Ada lives in", "Oran")}, "the other neighbour has no answer"


def test_an_unknown_metric_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(RequestError, match=r"no metric 'rewrite/probs'.*'rewrite/prob'"):
        measure(small_editable("llama"), REQUESTS, ["rewrite/probs"])


def test_a_model_of_nans_prefers_nothing_and_has_no_magnitude() -> None:
    editable = small_editable("llama")
    editable.set_weight(1, torch.zeros(editable.shape(1)))
    with torch.no_grad():
        editable.write(1).weight[:] = torch.nan
    names = ("rewrite/prob", "neighbourhood/prob", "rewrite/token-accuracy", "rewrite/magnitude")
    found = measure(editable, REQUESTS[:2], names)
    assert [found[name].value for name in names] == [0.0, 0.0, 0.0, None]
    assert found["rewrite/magnitude"].reason == NOT_A_NUMBER


def test_a_nan_is_nobodys_first_choice() -> None:
    editable = small_editable("llama")
    with torch.no_grad():
        editable.model.get_output_embeddings().weight.fill_(torch.nan)
    ((_, _, first_choice),) = passes.predictions(editable.model, [[3, 0, 0]], [1])  # argmax would give 0
    assert first_choice.tolist() == [False, False]


def test_a_pair_that_does_not_fit_is_an_error() -> None:
    editable = small_editable("llama")
    for pair in (("Ada " * 100, "Oran"), ("Ada " * 30, "Oran " * 30), ("", "Oran")):
        with pytest.raises(RequestError, match="the model takes 1 to 96"):
            score_continuations(editable.model, editable.tokenizer, [pair])


def test_greedy_looks_for_the_target_in_fifty_tokens() -> None:
    editable = small_editable("llama")
    prompts = (REQUESTS[0].question, *REQUESTS[0].paraphrase_prompts)
    stop = editable.tokenizer.eos_token_id
    said, shorter = (greedy(editable, prompts, length, stop) for length in (50, 49))
    own = dataclasses.replace(REQUESTS[0], target_new=said[0][-12:].strip())
    assert own.target_new in said[0] and own.target_new not in shorter[0] + said[1] + said[2]
    found = measure(editable, [own, REQUESTS[1]], ["rewrite/greedy", "paraphrase/greedy"])
    assert found["rewrite/greedy"].each == (1.0, 0.0)
    assert found["paraphrase/greedy"].each == (0.0, 0.0)
    half = dataclasses.replace(REQUESTS[0], target_new=said[2][-12:].strip())
    assert measure(editable, [half], ["paraphrase/greedy"])["paraphrase/greedy"].value == 0.5


def test_entropies_are_those_of_the_texts_without_their_prompts() -> None:
    editable = small_editable("llama")
    prompts = ("Ada Quill lives in", "Bo Lund")
    requests = [REQUESTS[0], dataclasses.replace(REQUESTS[1], generation_prompts=prompts)]
    found = measure(editable, requests, ["generation/greedy-entropy", "generation/top-5-entropy"])
    for name, texts in (
        ("generation/greedy-entropy", greedy(editable, prompts, 100)),
        ("generation/top-5-entropy", sampled(editable, prompts, 100, top=5)),
    ):
        expected = sum(map(n_gram_entropy, texts)) / 2
        assert found[name].each == (None, pytest.approx(expected)) and found[name].count == 1


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
