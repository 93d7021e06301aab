"""Generate text freely, greedily or by sampling, and measure how much it repeats itself."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from lifelong_edit.model import tokens as passes
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import tokens, whole_cache

ANSWER_LENGTH = 8
WORD = re.compile(r"\w+|[^\w\s]")
Choose = Callable[[list[int], Tensor, int], Tensor]  # numbers of rows, logits [B, vocabulary], step -> ids [B]


def answer(editable: EditableModel, prompt: str, length: int = ANSWER_LENGTH) -> str:
    """Continue `prompt` greedily by at most `length` tokens, up to the first full stop or line break."""
    text = greedy(editable, [prompt], length, stop=editable.tokenizer.eos_token_id)[0]
    return text.strip().split("\n")[0].split(".")[0]


def greedy(editable: EditableModel, prompts: Sequence[str], length: int, stop: int | None = None) -> list[str]:
    """Continue every prompt by its top tokens: `length` of them, fewer where the token `stop` or the context ends it.

    Neither the prompt nor the token `stop` is part of the text.
    """
    return _said(editable, prompts, length, lambda _rows, logits, _step: logits.argmax(-1), stop)


def sampled(
    editable: EditableModel,
    prompts: Sequence[str],
    length: int,
    top: int,
    seed: int = 0,
    draws: int = 1,
    stop: int | None = None,
) -> list[str]:
    """Continue every prompt `draws` times by `length` tokens drawn from the `top` most probable ones.

    There are fewer where the token `stop` or the context ends it. The draws are a function of seed and prompt: a text
    does not depend on what else is asked, and two models draw the same random numbers. Draw n of a prompt has the seed
    `seed` + n; the texts of a prompt follow one another.
    """
    asked = [(prompt, seed + n) for prompt in prompts for n in range(draws)]
    luck = torch.stack([_luck(prompt, length, own) for prompt, own in asked]) if asked else torch.empty(0, length)

    def choose(rows: list[int], logits: Tensor, step: int) -> Tensor:
        best, ids = logits.topk(min(top, logits.shape[-1]))  # [B, top]
        passed = best.softmax(-1).cumsum(-1) <= luck[rows, step, None].to(logits.device)
        return ids.gather(1, passed.sum(-1, keepdim=True).clamp(max=ids.shape[1] - 1))[:, 0]

    return _said(editable, [prompt for prompt, _ in asked], length, choose, stop)


def n_gram_entropy(text: str) -> float:
    """The fluency GE of one text (ROME, arXiv 2202.05262): entropies of its bigrams and trigrams in bits, weighted with
    2/3 and 4/3, their mean times 100.

    Words and punctuation marks count. A text that says one thing over and over, or nothing, has 0; noise has much.
    """
    words = WORD.findall(text)
    bigrams = list(pairwise(words))
    trigrams = list(pairwise(bigrams))
    return 100 * (2 / 3 * _entropy(Counter(bigrams)) + 4 / 3 * _entropy(Counter(trigrams))) / 2


def _entropy(counts: Counter[Any]) -> float:
    shares = torch.tensor(list(counts.values()), dtype=torch.float64) / max(1, counts.total())
    return max(0.0, -float((shares * shares.log2()).sum()))


def _said(editable: EditableModel, prompts: Sequence[str], length: int, choose: Choose, stop: int | None) -> list[str]:
    longest = editable.context_length - 1
    rows = [passes.fitting(tokens(editable.texts, editable.texts.rule.asked(p))[0], p, longest) for p in prompts]
    texts = {}
    # Rows of one length need no padding, so a continuation does not depend on what it is batched with.
    for numbers in _equally_long(rows, length):
        said = _continued(editable, [rows[number] for number in numbers], length, partial(choose, numbers), stop)
        for number, ids in zip(numbers, said.tolist(), strict=True):
            ids = ids[: ids.index(stop)] if stop in ids else ids
            texts[number] = str(editable.tokenizer.decode(ids, skip_special_tokens=True))
    return [texts[number] for number in range(len(rows))]


def _equally_long(rows: list[list[int]], length: int) -> Iterator[list[int]]:
    """Batch rows of equal length, which need no padding, so that they fit the budget when continued; gives numbers."""
    by_length = defaultdict(list)
    for number, row in enumerate(rows):
        by_length[len(row)].append(number)
    for own, numbers in by_length.items():
        size = max(1, passes.TOKENS_PER_BATCH // (own + length))
        yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


@torch.no_grad()
def _continued(
    editable: EditableModel,
    rows: list[list[int]],
    length: int,
    choose: Callable[[Tensor, int], Tensor],
    stop: int | None,
) -> Tensor:
    """Continue rows of one length: token ids [B, at most length]. What stands after `stop` in a row means nothing."""
    # Rows that begin alike are read once: what several texts are drawn behind may be far longer than they are.
    distinct = list(dict.fromkeys(map(tuple, rows)))
    own = torch.tensor([distinct.index(tuple(row)) for row in rows], device=editable.device)
    ids, cache = torch.tensor(distinct, device=editable.device), whole_cache()
    said = ids.new_empty(len(rows), 0)
    for step in range(min(length, editable.context_length - len(rows[0]))):
        output = cast(Any, editable.model)(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = output.logits[:, -1].float()
        if step == 0 and len(distinct) < len(rows):
            logits = logits[own]
            cache.batch_select_indices(own)
        ids = choose(logits, step)[:, None]
        said = torch.cat([said, ids], dim=1)
        if stop is not None and bool((said == stop).any(1).all()):
            break
    return said


def _luck(prompt: str, length: int, seed: int) -> Tensor:
    """Draw uniform numbers [length] by a generator seeded with seed and prompt."""
    digest = hashlib.sha256(f"{seed} {prompt}".encode()).digest()
    return torch.rand(length, generator=torch.Generator().manual_seed(int.from_bytes(digest[:8], "big")))
