"""Score what a model answers: the field's metrics of a batch of edits, by name.

A metric's name is the set of prompts, a slash, and the protocol: `rewrite/prob` is CounterFact's ES, SHORT_NAMES has
more of them; zsRE's efficacy, generality and specificity are the `token-accuracy` of `rewrite`, `paraphrase` and
`attribute`, where its locality question stands. Comparisons (`prob`) have a chance floor of one half, so a broken model
looks half fine there; teacher forcing (all protocols but `greedy` and the entropies) hides that a model cannot say what
it prefers. Read them beside each other and beside the base's.

A `Figure` is a mean with its count and uncertainty, or the reason why there is none; `Scope` says which facts are asked
about, `scores_body` what the ledger keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from statistics import fmean, harmonic_mean
from typing import Any

import torch
from transformers import PreTrainedModel

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import Tokenizer, continuation, fitting, predictions, rule_of, tokens
from lifelong_edit.store import ADDING, Entry, FactLife
from lifelong_edit.store.ledger import added_facts
from lifelong_edit.tracking.generation import greedy, n_gram_entropy, sampled
from lifelong_edit.tracking.retention import FactScore

SAID_TOKENS, FLUENCY_TOKENS, TOP = 50, 100, 5
Question = tuple[str, str]  # prompt, target


@dataclass(frozen=True, slots=True)
class Score:
    """How a model takes a target: mean negative log-probability of its tokens (`nll`, nats), share of top tokens."""

    nll: float
    accuracy: float

    @property
    def argmax(self) -> bool:
        """Whether every token of the target is the top token."""
        return self.accuracy == 1.0


@dataclass(frozen=True, slots=True)
class EditScores:
    """CounterFact's figures (ROME, arXiv 2202.05262), all in [0, 1]; None where no request has what a figure needs.

    Each is a mean over a request's prompts first, then over the requests. es, ps: the new target is more probable
    than the true one on the rewrite and the paraphrase prompts; ns: the true one (or the neighbour's own answer) is,
    on the neighbourhood prompts. ea, pa, na: all tokens of the new, the new, the true target are the first choice
    there. aa: the same for the answers of the attribute prompts. Probabilities are means over tokens in the logarithm.
    """

    es: float | None
    ps: float | None
    ns: float | None
    ea: float | None
    pa: float | None
    na: float | None
    aa: float | None


SHORT_NAMES = {
    "es": "rewrite/prob",
    "ps": "paraphrase/prob",
    "ns": "neighbourhood/prob",
    "ea": "rewrite/argmax",
    "pa": "paraphrase/argmax",
    "na": "neighbourhood/argmax",
    "aa": "attribute/argmax",
}


def score_edits(editable: EditableModel, requests: Sequence[EditRequest]) -> EditScores:
    """Score `requests` on the live model; every prompt and target is run once."""
    figures = measure(editable, requests, SHORT_NAMES.values())
    return EditScores(**{short: figures[name].value for short, name in SHORT_NAMES.items()})


def score_continuations(model: PreTrainedModel, tokenizer: Tokenizer, pairs: Sequence[Question]) -> list[Score]:
    """Score every (prompt, target); `TextRule` says what stands between them.

    Teacher-forced and length-normalised as CounterFact's evaluation defines it (ROME, arXiv 2202.05262). Raises
    `RequestError` for a pair that does not fit into the model's context.
    """
    longest = int(model.config.max_position_embeddings)
    prompts = [rule_of(tokenizer).asked(prompt) for prompt, _ in pairs]
    heads = [fitting(tokens(tokenizer, prompt)[0], prompt, longest) for prompt in prompts]
    targets = [continuation(tokenizer, prompt, target) for prompt, (_, target) in zip(prompts, pairs, strict=True)]
    rows = [fitting(h + t, " ".join(pair), longest) for h, t, pair in zip(heads, targets, pairs, strict=True)]
    scores: dict[int, Score] = {}
    for number, log_probabilities, first_choice in predictions(model, rows, [len(head) for head in heads]):
        scores[number] = Score(-float(log_probabilities.mean()), float(first_choice.double().mean()))
    return [scores[number] for number in range(len(pairs))]


def argmax_rate(model: PreTrainedModel, tokenizer: Tokenizer, pairs: Sequence[Question]) -> float:
    """The share of `pairs` whose target's tokens are all the model's first choice."""
    if not pairs:
        raise RequestError("There is nothing to score. Give at least one prompt with its answer.")
    return fmean(score.argmax for score in score_continuations(model, tokenizer, pairs))


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Which prompts of a request are asked, each with its answers: the wanted one, then the one it competes with."""

    needs: tuple[str, ...]  # what a request must have
    cases: Callable[[EditRequest], list[tuple[str, tuple[str, ...]]]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a prompt is judged: `run` asks distinct (prompt, target) pairs, `read` makes a value of the results.

    `answers` is how many of a prompt's answers are asked about; with none the prompt is asked with an empty target.
    """

    answers: int
    run: Callable[[EditableModel, Sequence[Question]], Sequence[Any]]
    read: Callable[..., float]


@dataclass(frozen=True, slots=True)
class EditMetric:
    """A metric of one request: the mean of a protocol's values over a set of its prompts."""

    prompts: PromptSet
    protocol: Protocol

    @property
    def lacking(self) -> str:
        """Why there is no value when no request has what the metric needs."""
        rival = ("a true target",) if self.protocol.answers == 2 else ()
        return f"No request has {' and '.join(dict.fromkeys((*self.prompts.needs, *rival)))}."

    def asks(self, request: EditRequest) -> list[tuple[Question, ...]]:
        """The pairs to be answered for each prompt; a prompt with too few answers is left out."""
        count = self.protocol.answers
        cases = [(prompt, answers[:count]) for prompt, answers in self.prompts.cases(request) if len(answers) >= count]
        return [tuple((prompt, answer) for answer in answers or ("",)) for prompt, answers in cases]

    def value(self, request: EditRequest, answered: dict[Question, Any]) -> float | None:
        """The request's value; None when it lacks what is needed."""
        values = [self.protocol.read(*(answered[pair] for pair in pairs)) for pairs in self.asks(request)]
        return fmean(values) if values else None


def _targets(request: EditRequest) -> tuple[str, ...]:
    return (request.target_new,) if request.target_true is None else (request.target_new, request.target_true)


def _forced(editable: EditableModel, pairs: Sequence[Question]) -> list[Score]:
    return score_continuations(editable.model, editable.texts, pairs)


def _contained(editable: EditableModel, pairs: Sequence[Question]) -> list[bool]:
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    said = dict(zip(prompts, greedy(editable, prompts, SAID_TOKENS, editable.tokenizer.eos_token_id), strict=True))
    return [target.strip() in said[prompt] for prompt, target in pairs]


def _greedy_entropies(editable: EditableModel, pairs: Sequence[Question]) -> list[float]:
    return [n_gram_entropy(text) for text in greedy(editable, [prompt for prompt, _ in pairs], FLUENCY_TOKENS)]


def _sampled_entropies(editable: EditableModel, pairs: Sequence[Question]) -> list[float]:
    return [n_gram_entropy(text) for text in sampled(editable, [prompt for prompt, _ in pairs], FLUENCY_TOKENS, TOP)]


PROMPT_SETS = {
    "rewrite": PromptSet((), lambda r: [(r.question, tuple(map(r.ended, _targets(r))))]),
    "paraphrase": PromptSet(("paraphrase prompts",), lambda r: [(p, _targets(r)) for p in r.paraphrase_prompts]),
    "neighbourhood": PromptSet(
        ("neighbourhood prompts", "a true target"),
        lambda r: [(p, (answer, r.target_new)) for p, answer in r.neighbours if answer is not None],
    ),
    "attribute": PromptSet(("attribute prompts",), lambda r: [(p, (answer,)) for p, answer in r.attribute_prompts]),
    "generation": PromptSet(("generation prompts",), lambda r: [(p, ()) for p in r.generation_prompts]),
}
PROTOCOLS = {
    "prob": Protocol(2, _forced, lambda wanted, other: float(wanted.nll < other.nll)),
    "magnitude": Protocol(2, _forced, lambda wanted, other: math.exp(-wanted.nll) - math.exp(-other.nll)),
    "argmax": Protocol(1, _forced, lambda wanted: float(wanted.argmax)),
    "token-accuracy": Protocol(1, _forced, lambda wanted: wanted.accuracy),
    "greedy": Protocol(1, _contained, float),
    "greedy-entropy": Protocol(0, _greedy_entropies, float),
    "top-5-entropy": Protocol(0, _sampled_entropies, float),
}
METRICS = {
    f"{prompts}/{protocol}": EditMetric(PROMPT_SETS[prompts], PROTOCOLS[protocol])
    for prompt_sets, protocols in (
        (("rewrite", "paraphrase", "neighbourhood"), ("prob", "magnitude")),
        (("rewrite", "paraphrase", "neighbourhood", "attribute"), ("argmax", "token-accuracy", "greedy")),
        (("generation",), ("greedy-entropy", "top-5-entropy")),
    )
    for prompts in prompt_sets
    for protocol in protocols
}
# A free answer is looked through for the target alone: where its end is a token, nothing of that is left in the text.
METRICS |= {"rewrite/greedy": EditMetric(PromptSet((), lambda r: [(r.question, _targets(r))]), PROTOCOLS["greedy"])}
HARMONIC, COMPARED = "harmonic/prob", ("rewrite/prob", "paraphrase/prob", "neighbourhood/prob")


def measure(editable: EditableModel, requests: Sequence[EditRequest], names: Iterable[str]) -> dict[str, Figure]:
    """Measure the named metrics (of METRICS and HARMONIC) of `requests` on the live model.

    Everything distinct is asked once, whatever number of metrics reads it. Raises `RequestError` for a name that is not
    known.
    """
    names = list(dict.fromkeys(names))
    metrics = {n: _metric(n) for name in names for n in (COMPARED if name == HARMONIC else (name,))}
    # Metrics share questions: each distinct one is asked once a way of running it, whatever number of metrics reads it.
    answered: dict[Any, dict[Question, Any]] = {}
    for run in dict.fromkeys(metric.protocol.run for metric in metrics.values()):
        own = [metric for metric in metrics.values() if metric.protocol.run is run]
        pairs = [pair for m in own for request in requests for group in m.asks(request) for pair in group]
        distinct = list(dict.fromkeys(pairs))
        answered[run] = dict(zip(distinct, run(editable, distinct), strict=True))
    figures = {}
    for name, m in metrics.items():
        each = [m.value(request, answered[m.protocol.run]) for request in requests]
        figures[name] = mean_figure(each, m.lacking if requests else "There are no requests.")
    return {name: _harmonic(figures) if name == HARMONIC else figures[name] for name in names}


def _metric(name: str) -> EditMetric:
    if name not in METRICS:
        near = get_close_matches(name, [*METRICS, HARMONIC], n=1, cutoff=0)
        raise RequestError(f"There is no metric {name[:60]!r}. The nearest name is {near[0]!r}.")
    return METRICS[name]


def _harmonic(figures: dict[str, Figure]) -> Figure:
    """CounterFact's S: the harmonic mean of the means of the three comparisons; 0 when one of them is."""
    values = []
    for part in (figures[name] for name in COMPARED):
        if part.value is None:
            return Figure(None, 0, reason=part.reason)
        values.append(part.value)
    return Figure(harmonic_mean(values), min(figures[name].count for name in COMPARED))


NOT_A_NUMBER = "The model gives values that are no numbers."
SIGMAS = 1.96  # of a normal distribution hold 95 %


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over `count` things (requests, texts, questions); where `value` is None, `reason` says why.

    `error` is the standard error of `value` over the things, `interval` holds the true mean with 95 % where that is
    not `value` +- 1.96 `error`. `each` has the values of the things in the order they were given in, None for a thing
    that lacks what the figure needs. A value may be infinite, never a NaN.
    """

    value: float | None
    count: int
    error: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None
    each: tuple[float | None, ...] = ()


def mean_figure(each: Sequence[float | None], lacking: str) -> Figure:
    """Take the mean over the things that have a value; `lacking` is the reason when none has."""
    own = torch.tensor([value for value in each if value is not None], dtype=torch.float64)
    if not len(own):
        return Figure(None, 0, reason=lacking, each=tuple(each))
    value = float(own.mean())
    if math.isnan(value):
        return Figure(None, len(own), reason=NOT_A_NUMBER, each=tuple(each))
    error = float(own.std()) / math.sqrt(len(own)) if len(own) > 1 else math.nan
    return Figure(value, len(own), error if math.isfinite(error) else None, each=tuple(each))


def finite(value: float) -> float | None:
    """The number, or None where it is none: JSON has no NaN."""
    return value if math.isfinite(value) else None


def scored(editable: EditableModel, facts: Sequence[FactLife], metrics: Iterable[str]) -> dict[str, Figure]:
    """The figures of these facts on a model, by metric."""
    return measure(editable, [fact.request for fact in facts], metrics)


def scores_body(facts: Sequence[FactLife], figures: Mapping[str, Figure]) -> dict[str, Any]:
    """What an entry's body keeps of these figures: every fact's score by metric, and means by cohort."""
    scores = {name: dict(zip([fact.id for fact in facts], f.each, strict=True)) for name, f in figures.items()}
    return {"scores": scores, "retention": [row for name in scores for row in _rows(facts, name, scores[name])]}


def measurements(entries: Iterable[Entry], metric: str) -> Iterator[FactScore]:
    """Every score of `metric` in the ledger: those taken at the edit, and later ones."""
    cohorts: dict[str, int] = {}
    for entry in entries:
        if entry.kind in ADDING:
            cohorts |= {fact["id"]: entry.seq for fact in added_facts(entry.body)}
        for id, value in entry.body.get("scores", {}).get(metric, {}).items():
            if value is not None:
                yield FactScore(entry.seq, cohorts[id], id, value)


def _rows(facts: Sequence[FactLife], metric: str, scores: Mapping[str, float | None]) -> Iterator[dict[str, Any]]:
    """The mean of every cohort over its facts that have a score, as the view `retention` shows it."""
    cohorts: dict[int, list[float]] = {}
    for fact in facts:
        score = scores[fact.id]
        if score is not None:
            cohorts.setdefault(fact.seq, []).append(score)
    for seq, own in cohorts.items():
        yield {"cohort": seq, "metric": metric, "value": fmean(own), "facts": len(own)}
