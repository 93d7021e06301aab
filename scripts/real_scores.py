"""How a causal LM answers, by plain transformers and torch: nothing of the package is used. And what rounding costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 48  # prompts a pass
GREEDY = 30  # tokens of a sample
BLOCK = 32  # weights that share a scale


class Answer(NamedTuple):
    """Whether the first choices say the answer; the geometric mean of its tokens' p; the prompt's first choice."""

    right: bool
    p: float
    first: int


@torch.no_grad()
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[str, str]]
) -> list[Answer]:
    """The model's answers to (prompt, answer) pairs, a blank between the two."""
    prompts = [tokenizer(prompt).input_ids for prompt, _ in asked]
    wanted = [tokenizer(" " + answer, add_special_tokens=False).input_ids for _, answer in asked]
    found: dict[int, Answer] = {}
    order = sorted(range(len(asked)), key=lambda i: len(prompts[i]) + len(wanted[i]))
    for part in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
        # Padding on the right is behind all that counts, and logits are only made from the first answer on.
        rows = pad_sequence([torch.tensor(prompts[i] + wanted[i][:-1]) for i in part], batch_first=True)
        begin = min(len(prompts[i]) for i in part) - 1
        logits = model(rows, use_cache=False, logits_to_keep=rows.shape[1] - begin).logits.float().log_softmax(-1)
        for row, i in zip(logits, part, strict=True):
            own = row[len(prompts[i]) - 1 - begin :][: len(wanted[i])]
            said, targets = own.argmax(-1), torch.tensor(wanted[i])
            p = own.gather(1, targets[:, None]).mean().exp().item()
            found[i] = Answer(bool((said == targets).all()), p, int(said[0]))
    return [found[i] for i in range(len(asked))]


@torch.no_grad()
def first_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], n: int
) -> list[int]:
    """The first choice after every one of the first `n` tokens of every text."""
    rows = torch.tensor([tokenizer(text).input_ids[:n] for text in texts])
    return torch.cat(
        [model(part, use_cache=False).logits.argmax(-1).flatten() for part in torch.split(rows, 4)]
    ).tolist()


@torch.no_grad()
def greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """What the model says after each prompt, whatever its own generation settings are."""
    tokenizer.padding_side = "left"
    rows = tokenizer(list(prompts), return_tensors="pt", padding=True)
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": GREEDY}
    told = model.generate(**rows, **plain, pad_token_id=tokenizer.pad_token_id)  # type: ignore[operator]
    return tokenizer.batch_decode(told[:, rows.input_ids.shape[1] :], skip_special_tokens=True)


def q8_0(blocks: Tensor) -> Tensor:
    """Blocks [n, 32] as GGUF's Q8_0 keeps them: 255 steps of the largest weight."""
    scale = blocks.abs().amax(1, keepdim=True) / 127
    return (blocks / scale.where(scale > 0, 1)).round() * scale


def q4_0(blocks: Tensor) -> Tensor:
    """Blocks [n, 32] as GGUF's Q4_0 keeps them: 16 steps, the weight of largest size at the lowest."""
    scale = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -8
    return ((blocks / scale.where(scale != 0, 1)).round() + 8).clamp(0, 15).sub(8) * scale


def bfloat16(blocks: Tensor) -> Tensor:
    return blocks.bfloat16().float()


STORED: dict[str, Callable[[Tensor], Tensor]] = {"bfloat16": bfloat16, "Q8_0": q8_0, "Q4_0": q4_0}


@torch.no_grad()
def store_as(model: PreTrainedModel, form: str) -> None:
    """Round every matrix of the model, the embedding too, as a file of this form would."""
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.copy_(STORED[form](weight.reshape(-1, BLOCK)).view_as(weight))


@torch.no_grad()
def changes(model: PreTrainedModel, base: PreTrainedModel) -> dict[str, float]:
    """|W - W_0| / |W_0| of every parameter that is not the base's, in Frobenius norms."""
    before = dict(base.named_parameters())
    moved = {
        name: ((weight - before[name]).norm() / before[name].norm()).item() for name, weight in model.named_parameters()
    }
    return {name: share for name, share in moved.items() if share > 0}


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson)."""
    z2 = 1.96**2
    middle, half = (
        (share + z2 / 2 / n) / (1 + z2 / n),
        math.sqrt(z2 * (share * (1 - share) / n + z2 / 4 / n**2)) / (1 + z2 / n),
    )
    return middle - half, middle + half
