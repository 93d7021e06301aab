"""What a model answers: teacher-forced scores of continuations, and CounterFact's figures of a batch of edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import replaced_input
from lifelong_edit.model.subject import continuation, tokens

TOKENS_PER_BATCH = 4_096
Pair = tuple[str, str]  # prompt, target


@dataclass(frozen=True, slots=True)
class Score:
    """`nll`: mean negative log-probability of the target's tokens (nats); `argmax`: whether each is the top token."""

    nll: float
    argmax: bool


@dataclass(frozen=True, slots=True)
class EditScores:
    """CounterFact's figures (ROME, arXiv 2202.05262), all in [0, 1]; None where no request has what a figure needs.

    Each is a mean over a request's prompts first, then over the requests. es, ps: the new target is more probable
    than the true one on the rewrite and the paraphrase prompts; ns: the true one is, on the neighbourhood prompts.
    ea, pa, na: all tokens of the new, the new, the true target are the first choice there. aa: the same for the
    answers of the attribute prompts. Probabilities are means over tokens in the logarithm.
    """

    es: float | None
    ps: float | None
    ns: float | None
    ea: float | None
    pa: float | None
    na: float | None
    aa: float | None


def score_edits(editable: EditableModel, requests: Sequence[EditRequest]) -> EditScores:
    """The figures of `requests` on the live model; every prompt and target is run once."""
    wanted = list(dict.fromkeys(pair for request in requests for pair in _pairs(request)))
    scores = dict(zip(wanted, score_continuations(editable.model, editable.tokenizer, wanted), strict=True))
    prefers: dict[str, list[list[bool]]] = {"es": [], "ps": [], "ns": []}
    says: dict[str, list[list[bool]]] = {"ea": [], "pa": [], "na": [], "aa": []}
    for request in requests:
        new, true = request.target_new, request.target_true
        rewrite, paraphrases, neighbours = (request.question,), request.paraphrase_prompts, request.neighborhood_prompts
        says["ea"].append([scores[prompt, new].argmax for prompt in rewrite])
        says["pa"].append([scores[prompt, new].argmax for prompt in paraphrases])
        says["aa"].append([scores[pair].argmax for pair in request.attribute_prompts])
        if true is not None:
            says["na"].append([scores[prompt, true].argmax for prompt in neighbours])
            prefers["es"].append([scores[prompt, new].nll < scores[prompt, true].nll for prompt in rewrite])
            prefers["ps"].append([scores[prompt, new].nll < scores[prompt, true].nll for prompt in paraphrases])
            prefers["ns"].append([scores[prompt, true].nll < scores[prompt, new].nll for prompt in neighbours])
    return EditScores(**{name: _mean_of_means(bits) for name, bits in (prefers | says).items()})


def score_continuations(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> list[Score]:
    """A `Score` for every (prompt, target), the target following the prompt after one blank.

    Teacher-forced and length-normalised as CounterFact's evaluation defines it (ROME, arXiv 2202.05262).
    """
    heads = [tokens(tokenizer, prompt.rstrip())[0] for prompt, _ in pairs]
    targets = [continuation(tokenizer, prompt.rstrip(), target) for prompt, target in pairs]
    scores: dict[int, Score] = {}
    rows = [head + target for head, target in zip(heads, targets, strict=True)]
    for number, log_probabilities, first_choice in predictions(model, rows, [len(head) for head in heads]):
        scores[number] = Score(-float(log_probabilities.mean()), bool(first_choice.all()))
    return [scores[number] for number in range(len(pairs))]


def argmax_rate(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> float:
    """Share of `pairs` whose target's tokens are all the model's first choice."""
    if not pairs:
        raise RequestError("There is nothing to score. Give at least one prompt with its answer.")
    return fmean(score.argmax for score in score_continuations(model, tokenizer, pairs))


@torch.no_grad()
def predictions(
    model: Any, rows: Sequence[Sequence[int]], firsts: Sequence[int]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For every row of token ids, in no fixed order: its number and, for its tokens from `first` on (at least 1), the
    log-probability (nats, float32) and whether it is the top token, both [tokens] on the CPU.

    Rows are padded on the right and batched by a budget of tokens, longest first; the head runs at the predicted
    places only. The answer does not depend on the batching.
    """
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    start = 0
    while start < len(order):
        numbers = order[start : start + max(1, TOKENS_PER_BATCH // len(rows[order[start]]))]
        start += len(numbers)
        ids = pad_sequence([torch.tensor(rows[number]) for number in numbers], batch_first=True)  # [B, T]
        lengths = torch.tensor([len(rows[number]) for number in numbers])
        begins = torch.tensor([firsts[number] for number in numbers])
        places = torch.arange(ids.shape[1])[None]
        mask = (places < lengths[:, None]).long()
        row, column = ((places >= begins[:, None]) & mask.bool()).nonzero(as_tuple=True)  # [M], row by row
        predicted = _logits(model, ids, mask, row, column - 1)  # [M, vocab]
        target = ids[row, column].to(predicted.device)
        log_probabilities = predicted.log_softmax(-1).gather(1, target[:, None])[:, 0].cpu()
        first_choice = (predicted.argmax(-1) == target).cpu()
        ends = (lengths - begins).cumsum(0).tolist()
        for number, begin, end in zip(numbers, [0, *ends], ends, strict=False):
            yield number, log_probabilities[begin:end], first_choice[begin:end]


def _logits(model: Any, ids: Tensor, mask: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Float32 logits [M, vocab] at the places (row[m], column[m]) of a batch [B, T]."""
    device = model.device
    row, column = row.to(device), column.to(device)
    with replaced_input(model.get_output_embeddings(), lambda hidden: hidden[row, column][None]):
        logits: Tensor = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    return logits[0].float()


def _pairs(request: EditRequest) -> Iterator[Pair]:
    """Every (prompt, target) that a request's figures need."""
    about = (request.question, *request.paraphrase_prompts)
    yield from ((prompt, request.target_new) for prompt in about)
    yield from request.attribute_prompts
    if request.target_true is not None:
        yield from ((prompt, request.target_true) for prompt in (*about, *request.neighborhood_prompts))
        yield from ((prompt, request.target_new) for prompt in request.neighborhood_prompts)


def _mean_of_means(bits: list[list[bool]]) -> float | None:
    means = [fmean(own) for own in bits if own]
    return fmean(means) if means else None
