"""How a causal LM answers, by plain transformers and torch: nothing of the package is used. And what rounding costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 48  # prompts a pass
GREEDY = 30  # tokens of a text
BLOCK = 32  # weights that share a scale
PLAIN = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
Answer = dict[str, bool | float | int]
Item = TypeVar("Item")


def batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    yield from (items[start : start + BATCH] for start in range(0, len(items), BATCH))


@torch.no_grad()
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[str, str]]
) -> list[Answer]:
    """The model's answer to each (prompt, answer) pair, a blank between the two.

    `right`: every token of the answer is the first choice; `p`: the geometric mean of the tokens' probabilities;
    `first`: the first choice behind the prompt.
    """
    prompts = [tokenizer(prompt).input_ids for prompt, _ in asked]
    wanted = [tokenizer(" " + answer, add_special_tokens=False).input_ids for _, answer in asked]
    found: dict[int, Answer] = {}
    for part in batches(sorted(range(len(asked)), key=lambda i: len(prompts[i]) + len(wanted[i]))):
        # Padding on the right is behind all that counts, and logits are made from the first answer's place on.
        rows = pad_sequence([torch.tensor(prompts[i] + wanted[i][:-1]) for i in part], batch_first=True)
        begin = min(len(prompts[i]) for i in part) - 1
        logits = model(rows, use_cache=False, logits_to_keep=rows.shape[1] - begin).logits.float()
        for row, i in zip(logits, part, strict=True):
            own, targets = row[len(prompts[i]) - 1 - begin :][: len(wanted[i])], torch.tensor(wanted[i])
            said = own.argmax(-1)
            p = own.log_softmax(-1).gather(1, targets[:, None]).mean().exp().item()
            found[i] = {"right": bool((said == targets).all()), "p": round(p, 5), "first": int(said[0])}
    return [found[i] for i in range(len(asked))]


@torch.no_grad()
def first_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int
) -> list[int]:
    """The first choice behind each of the first `length` tokens of every text."""
    rows = torch.tensor([tokenizer(text).input_ids[:length] for text in texts])
    return [int(i) for row in rows for i in model(row[None], use_cache=False).logits[0].argmax(-1)]


@torch.no_grad()
def greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """The text that the model writes behind each prompt, whatever its own generation settings are."""
    tokenizer.padding_side = "left"
    found: dict[str, str] = {}
    for part in batches(sorted(prompts, key=len)):
        rows = tokenizer(list(part), return_tensors="pt", padding=True)
        given = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask}
        told = model.generate(**given, **PLAIN, max_new_tokens=GREEDY, pad_token_id=tokenizer.pad_token_id)  # type: ignore[operator]
        texts = tokenizer.batch_decode(told[:, rows.input_ids.shape[1] :], skip_special_tokens=True)
        found.update(zip(part, texts, strict=True))
    return [found[prompt] for prompt in prompts]


def bfloat16(blocks: Tensor) -> Tensor:
    """Weights as bfloat16 keeps them."""
    return blocks.bfloat16().float()


def q8_0(blocks: Tensor) -> Tensor:
    """Blocks [n, 32] as GGUF's Q8_0 keeps them: 127 steps up to the largest weight, and as many down."""
    scale = blocks.abs().amax(1, keepdim=True) / 127
    return (blocks / scale.where(scale > 0, 1)).round() * scale


def q4_0(blocks: Tensor) -> Tensor:
    """Blocks [n, 32] as GGUF's Q4_0 keeps them: 16 steps, the lowest of which is the weight of largest size."""
    scale = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -8
    return ((blocks / scale.where(scale != 0, 1)).round() + 8).clamp(0, 15).sub(8) * scale


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"bfloat16": bfloat16, "Q8_0": q8_0, "Q4_0": q4_0}


@torch.no_grad()
def store_as(model: PreTrainedModel, form: str) -> None:
    """Round every matrix of the model, the embedding too, as a file of this form would."""
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.copy_(FORMS[form](weight.reshape(-1, BLOCK)).view_as(weight))


@torch.no_grad()
def changes(model: PreTrainedModel, base: PreTrainedModel) -> dict[str, float]:
    """|W - W_0| / |W_0| of every parameter that is not the base's, in Frobenius norms."""
    pairs = zip(model.named_parameters(), base.parameters(), strict=True)
    moved = {name: ((weight - before).norm() / before.norm()).item() for (name, weight), before in pairs}
    return {name: round(size, 4) for name, size in moved.items() if size > 0}
