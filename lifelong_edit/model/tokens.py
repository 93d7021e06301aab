"""Texts and requests as token ids, rows of them lined up and padded, and forward passes over many rows.

A request's ids tell where its subject and its prompt end. Rows are lined up on one column, with the key/value cache of
the columns before it; passes are batched by a budget of tokens, with logits only where wanted.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lifelong_edit.errors import ModelError, RequestError
from lifelong_edit.facts import EditRequest, TextRule
from lifelong_edit.model.hooks import replaced_input

Past = tuple[tuple[Tensor, Tensor], ...]  # keys and values of every layer, each [B, heads, columns, d_head]


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """B token sequences in T columns; every row's pivot stands in column `pivot`, its token p in `shifts[i] + p`.

    All are [B, T]. `mask` is 0 on left padding only: right padding is hidden from every token by causality, and a
    query that sees at least itself is never NaN. Outputs at padded places mean nothing. What left padding computes is
    finite in every dtype but float64 with eager attention, whose softmax is float32: use sdpa there.
    """

    ids: Tensor
    mask: Tensor
    position_ids: Tensor
    shifts: Tensor  # [B]
    pivot: int


def pad_rows(
    sequences: Sequence[Sequence[int]], pivots: Sequence[int], pad_id: int, device: torch.device | str = "cpu"
) -> PaddedRows:
    """Pad on the left until all pivots (an index into each sequence) meet, and on the right to one length.

    Position ids count a row's own tokens from 0; a padded place repeats the nearest of them, so none is out of range.
    """
    if not sequences or any(not 0 <= pivot < len(row) for row, pivot in zip(sequences, pivots, strict=True)):
        raise ModelError("Rows need at least one sequence, each with its pivot inside it.")
    pivot = max(pivots)
    shifts = torch.tensor([pivot - own for own in pivots])
    lengths = torch.tensor([len(row) for row in sequences])
    places = torch.arange(int((shifts + lengths).max())) - shifts[:, None]  # [B, T], negative on left padding
    own = (places >= 0) & (places < lengths[:, None])
    ids = torch.full(own.shape, pad_id)
    ids[own] = torch.tensor([token for row in sequences for token in row])
    positions = places.clamp(min=0).minimum(lengths[:, None] - 1)
    mask = (places >= 0).long()
    return PaddedRows(ids.to(device), mask.to(device), positions.to(device), shifts.to(device), pivot)


def whole_cache() -> DynamicCache:
    """An empty cache that keeps every position, to pass to a full forward.

    The cache a model makes by itself drops what a sliding window no longer sees.
    """
    return DynamicCache()


def cropped(cache: DynamicCache, columns: int) -> Past:
    """The keys and values of the first `columns` columns, all layers, apart from any graph and from the cache."""
    layers: list[Any] = cache.layers
    lengths = {layer.keys.shape[-2] for layer in layers}
    if len(lengths) != 1 or max(lengths) < columns or any(layer.is_sliding for layer in layers):
        raise ModelError(f"The cache does not hold the first {columns} columns of every layer. Fill a `whole_cache()`.")

    def first(states: Tensor) -> Tensor:
        return states[:, :, :columns].detach().clone()

    return tuple((first(layer.keys), first(layer.values)) for layer in layers)


def selected(past: Past, rows: Tensor) -> Past:
    """The past of these rows (LongTensor [M], repeats allowed)."""
    return tuple((keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in past)


def fresh_cache(past: Past) -> DynamicCache:
    """A cache for one pass that starts with this past; writing to it does not change the past."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(past):
        cache.update(keys, values, layer)
    return cache


NEUTRAL_CONTEXT = "."
REMEMBERED = 1_024  # texts, a few hundred bytes each


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt and its target: `ids` holds the prompt's ids, then the target's."""

    ids: tuple[int, ...]
    subject_last: int  # index of the subject's last token
    prompt_length: int  # in tokens, specials in front included

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[: self.prompt_length]

    @property
    def target_ids(self) -> tuple[int, ...]:
        return self.ids[self.prompt_length :]


class Texts:
    """A tokenizer under a text rule, which remembers the last texts: one edit asks for the same one dozens of times."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rule: TextRule = TextRule.kept) -> None:
        self.unk_token_id = tokenizer.unk_token_id
        self.rule = rule
        self._tokenizer = tokenizer
        self._known: OrderedDict[str, tuple[list[int], list[tuple[int, int]]]] = OrderedDict()

    def tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """What `tokens` gives; the lists are the caller's own."""
        try:
            ids, spans = self._known.pop(text)
        except KeyError:
            ids, spans = tokens(self._tokenizer, text)
        self._known[text] = ids, spans  # at the end, where it is forgotten last
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return list(ids), list(spans)


Tokenizer = PreTrainedTokenizerBase | Texts


def encode(
    tokenizer: Tokenizer,
    request: EditRequest,
    target: str | None = None,
    prefix: str = "",
    max_length: int | None = None,
) -> Encoded:
    """`prefix` + the request's question + `target` (by default its answer) as token ids, under the text rule.

    The prompt's ids are the tokenizer's own, with its BOS and without anything it puts after the text. The target's
    ids are those `continuation` gives; the two are concatenated and never decoded. `RequestError` when the tokenizer
    leaves nothing of the subject or the target, or when all is longer than `max_length` tokens.
    """
    target = request.answer if target is None else target
    text = prefix + rule_of(tokenizer).asked(request.question)
    ids, spans = tokens(tokenizer, text)
    start = len(prefix) + request.subject_start
    subject_last = _last_inside(tokenizer, request, ids, spans, start)
    target_ids = continuation(tokenizer, text, target)
    if max_length is not None and len(ids) + len(target_ids) > max_length:
        raise RequestError(
            f"{text[:60]!r} with its target has {len(ids) + len(target_ids)} tokens, the model takes {max_length}. "
            "Shorten the prompt."
        )
    return Encoded(tuple(ids + target_ids), subject_last, len(ids))


def rule_of(tokenizer: Tokenizer) -> TextRule:
    """The rule of the texts; a bare tokenizer has that of new stores."""
    return tokenizer.rule if isinstance(tokenizer, Texts) else TextRule.kept


def continuation(tokenizer: Tokenizer, text: str, target: str) -> list[int]:
    """The ids of `target` as a continuation of `text`, with a blank before it where the text rule puts one.

    They are what the whole text has after the ids of `text`: nothing is tokenised at the start of a text, so no
    tokenizer adds a BOS or a second space. Where the whole text does not begin with the ids of `text` (a token reaches
    over the border), the same is done behind a neutral context, and the prompt keeps its own ids.
    """
    answer = rule_of(tokenizer).answered(text, target)
    blanks = len(answer) - len(answer.lstrip())
    for context in (text, NEUTRAL_CONTEXT):
        head, (whole, spans) = tokens(tokenizer, context)[0], tokens(tokenizer, context + answer)
        if whole[: len(head)] == head:
            ids, written = whole[len(head) :], any(last > len(context) + blanks for _, last in spans[len(head) :])
            return _known(tokenizer, ids if written else [], target)
    raise RequestError(f"The target {target[:60]!r} has no tokens of its own after {text[-40:]!r}. Reword it.")


def slot_ids(encoded: Encoded) -> tuple[int, ...]:
    """The ids up to and including the subject's last token; those of the bare prompt name the slot of a fact."""
    return encoded.ids[: encoded.subject_last + 1]


def slot_key(ids: Sequence[int]) -> str:
    """SHA-256 of the token ids, as 64 hex digits."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def tokens(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character spans as the tokenizer has them, without the specials it puts after the text."""
    if isinstance(tokenizer, Texts):
        return tokenizer.tokens(text)
    encoding = tokenizer(
        text, return_offsets_mapping=True, return_special_tokens_mask=True, truncation=False, verbose=False
    )
    ids, spans, special = encoding["input_ids"], encoding["offset_mapping"], encoding["special_tokens_mask"]
    end = max((i + 1 for i, added in enumerate(special) if not added), default=0)
    return list(ids[:end]), list(spans[:end])


def _last_inside(
    tokenizer: Tokenizer,
    request: EditRequest,
    ids: list[int],
    spans: list[tuple[int, int]],
    start: int,
) -> int:
    """Index of the last token that covers a character of the subject, which begins at character `start`.

    A span may include the space before a word or leave it out, and may be shared by the several tokens of one
    character; specials and bare spaces may have empty ones.
    """
    end = start + len(request.subject.rstrip())
    start += len(request.subject) - len(request.subject.lstrip())
    inside = [i for i, (first, last) in enumerate(spans) if first < end and last > start]
    if not inside or tokenizer.unk_token_id in (ids[i] for i in inside):
        raise RequestError(
            f"The tokenizer has no tokens for the subject {request.subject[:60]!r} in {request.question[:60]!r}. "
            "Spell it with characters the model knows: unknown ones make different subjects look the same."
        )
    return inside[-1]


def _known(tokenizer: Tokenizer, ids: list[int], target: str) -> list[int]:
    if not ids or tokenizer.unk_token_id in ids:
        raise RequestError(
            f"The tokenizer has no tokens for the target {target[:60]!r}. Spell it with characters the model knows."
        )
    return ids


TOKENS_PER_BATCH, LOGITS_PER_BATCH = 4_096, 2**28  # the logits are a gigabyte in float32
LEADS_PER_BATCH = 1_024  # where every position of a row may be asked: logits are [tokens, vocabulary]
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
    for numbers in batches(rows, affordable(model, TOKENS_PER_BATCH, LOGITS_PER_BATCH)):
        # Only positions before a wanted token get logits: the head over the vocabulary is most of a small model's cost.
        ids, mask = right_padded([rows[number] for number in numbers])
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
    for numbers in batches(rows, TOKENS_PER_BATCH):
        ids, mask = right_padded([rows[number] for number in numbers])
        logits = _logits(model, ids, mask, torch.arange(len(ids)), mask.sum(1) - 1)
        yield numbers, logits.log_softmax(-1).cpu()


class Leads(NamedTuple):
    """How firmly tokens are given, all [positions] on the CPU: their ids, log-probabilities and margins.

    A margin is how many nats a token lies above the likeliest other one; it is negative where that comes first.
    """

    ids: Tensor
    log_probabilities: Tensor
    margins: Tensor


@torch.no_grad()
def leads(
    model: PreTrainedModel, rows: Sequence[Row], firsts: Sequence[int], wanted: Sequence[Row] | None = None
) -> list[Leads]:
    """How firmly the model gives a token after every position of each row from `first` on.

    The tokens asked about are those `wanted`, one a position, by default the first choices. The batching does not
    matter.
    """
    found: dict[int, Leads] = {}
    for numbers in batches(rows, affordable(model, LEADS_PER_BATCH, LOGITS_PER_BATCH)):
        ids, mask = right_padded([rows[number] for number in numbers])
        begins = torch.tensor([firsts[number] for number in numbers])
        asked = (torch.arange(ids.shape[1])[None] >= begins[:, None]) & mask.bool()
        row, column = asked.nonzero(as_tuple=True)  # [M], row by row
        logs = _logits(model, ids, mask, row, column).log_softmax(-1).cpu()  # [M, vocabulary]
        values, choices = logs.topk(2)
        told = choices[:, 0]
        if wanted is not None:
            told = torch.tensor([token for number in numbers for token in wanted[number]])
        own = logs.gather(1, told[:, None])[:, 0]
        margin = own - values[:, 0].where(told != choices[:, 0], values[:, 1])
        parts = (torch.split(values, asked.sum(1).tolist()) for values in (told, own, margin))
        found.update(zip(numbers, map(Leads, *parts), strict=True))
    return [found[number] for number in range(len(rows))]


def answer_leads(model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Leads]:
    """How firmly the model gives every token of an answer behind its prompt, teacher-forced; pairs of token ids."""
    rows = [prompt + answer[:-1] for prompt, answer in pairs]
    return leads(model, rows, [len(prompt) - 1 for prompt, _ in pairs], [answer for _, answer in pairs])


def affordable(model: PreTrainedModel, tokens: int, logits: int) -> int:
    """How many tokens a pass may take: `tokens`, or fewer of a vocabulary so large that they gave more `logits`."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return min(tokens, logits // len(head.weight))


def batches(rows: Sequence[Row], budget: int) -> Iterator[list[int]]:
    """Batch the rows, the longest first, so that a padded batch fills the budget of tokens; gives row numbers."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    while order:
        size = max(1, budget // len(rows[order[0]]))
        yield order[:size]
        order = order[size:]


def right_padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
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
