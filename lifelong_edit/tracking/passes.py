"""Run forward passes over many rows of tokens: batched by a budget of tokens, with logits only where wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lifelong_edit.errors import RequestError
from lifelong_edit.model.hooks import replaced_input

TOKENS_PER_BATCH = 4_096
Row = Sequence[int]


def fitting(ids: list[int], text: str, longest: int) -> list[int]:
    """Give the ids of `text` back; `RequestError` when there are none, or more than `longest`."""
    if not 1 <= len(ids) <= longest:
        raise RequestError(
            f"{text[:60]!r} has {len(ids)} tokens, the model takes 1 to {longest}. Give a text that fits."
        )
    return ids


@torch.no_grad()
def predictions(
    model: PreTrainedModel, rows: Sequence[Row], firsts: Sequence[int]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Score the tokens of every row from position `first` (at least 1) on, teacher-forced.

    Yields, in no fixed order, a row's number, its tokens' log-probabilities (nats, float32) and whether each is the top
    token, both [tokens] on the CPU. They do not depend on the batching.
    """
    for numbers in _batches(rows):
        # Only positions before a wanted token get logits: the head over the vocabulary is most of a small model's cost.
        ids, mask = _padded([rows[number] for number in numbers])
        begins = torch.tensor([firsts[number] for number in numbers])
        wanted = (torch.arange(ids.shape[1])[None] >= begins[:, None]) & mask.bool()
        row, column = wanted.nonzero(as_tuple=True)  # [M], row by row
        predicted = _logits(model, ids, mask, row, column - 1)  # [M, vocabulary]
        target = ids[row, column].to(predicted.device)
        log_probabilities = predicted.log_softmax(-1).gather(1, target[:, None])[:, 0].cpu()
        first_choice = (predicted.argmax(-1) == target).cpu() & ~log_probabilities.isnan()
        # `nonzero` goes row by row, so each row's tokens are one slice of the flat results.
        ends = wanted.sum(1).cumsum(0).tolist()
        for number, begin, end in zip(numbers, [0, *ends], ends, strict=False):
            yield number, log_probabilities[begin:end], first_choice[begin:end]


@torch.no_grad()
def next_tokens(model: PreTrainedModel, rows: Sequence[Row]) -> Iterator[tuple[list[int], Tensor]]:
    """Predict the token after every row: yields batches of row numbers with log-probabilities [rows, vocabulary].

    Log-probabilities are in nats, float32, on the CPU.
    """
    for numbers in _batches(rows):
        ids, mask = _padded([rows[number] for number in numbers])
        logits = _logits(model, ids, mask, torch.arange(len(ids)), mask.sum(1) - 1)
        yield numbers, logits.log_softmax(-1).cpu()


def _batches(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Batch the rows, the longest first, so that a padded batch fills the budget; gives row numbers."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    while order:
        size = max(1, TOKENS_PER_BATCH // len(rows[order[0]]))
        yield order[:size]
        order = order[size:]


def _padded(rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Pad rows on the right: ids and mask [B, T]."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()


def _logits(model: PreTrainedModel, ids: Tensor, mask: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Compute float32 logits [M, vocabulary] at the places (row[m], column[m]) of a batch [B, T]."""
    device = model.device
    row, column = row.to(device), column.to(device)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    with replaced_input(head, lambda hidden: hidden[row, column][None]):
        logits: Tensor = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    return logits[0].float()
