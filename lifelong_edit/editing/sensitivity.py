"""How sensitive a model is to what an edited weight writes: a size of written vectors that other text feels.

S = E[g g'] with g = d log p(y | x) / d (output of W) at the tokens of generic text and labels y drawn from the model:
the Fisher information of the written vector. To second order a change of it by d costs d' S d / 2 nats a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import RunningSecondMoment, SecondMoment
from lifelong_edit.editing.second_moments import moment_bytes, read_moment
from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured, replaced_output
from lifelong_edit.model.tokens import affordable, batches, right_padded

GRADIENTS = "gradients"
ROW, TOKENS_PER_PASS, LOGITS_PER_PASS = 128, 512, 2**25  # a pass holds its logits about six times
ISOTROPIC = 0.1  # what the plain size counts beside the sensitive one


def collected_sensitivities(
    editable: EditableModel, layers: Sequence[int], corpora: Sequence[Sequence[str]], tokens: int, seed: int
) -> dict[int, bytes]:
    """The file of S [d_out, d_out] at each layer, in nats a token: the mean of those of the corpora.

    Each corpus is scaled as a whole, all its layers alike, so that all count the same. About `tokens` tokens of each
    are read: long texts in rows of 128, short ones by themselves.
    """
    generator, wanted, read, found = torch.Generator().manual_seed(seed), sorted(layers), 0, []
    for texts in corpora:
        moments = {layer: RunningSecondMoment(editable.shape(layer)[0]) for layer in wanted}
        rows = _rows(editable, texts, tokens)
        for numbers in batches(rows, affordable(editable.model, TOKENS_PER_PASS, LOGITS_PER_PASS)):
            batch = [rows[number] for number in numbers]
            for layer, gradients in _gradients(editable, wanted, batch, generator).items():
                moments[layer].add(gradients)
        found.append({layer: moment.value().matrix for layer, moment in moments.items()})
        read += sum(map(len, rows))
    sizes = [sum(own.trace() for own in corpus.values()) for corpus in found]
    shares = [sum(sizes) / len(sizes) ** 2 / size for size in sizes]
    total = {n: torch.stack([s * c[n] for s, c in zip(shares, found, strict=True)]).sum(0) for n in wanted}
    return {n: moment_bytes(SecondMoment(s, read), {"of": GRADIENTS, "layer": n}) for n, s in total.items()}


def read_sensitivity(data: bytes) -> Tensor:
    """S [d_out, d_out] of a file; `StoreCorrupt` when it holds something else."""
    moment, about = read_moment(data)
    if about.get("of") != GRADIENTS:
        raise StoreCorrupt("A file that should hold sensitivities holds something else. Restore it from a backup.")
    return moment.matrix


def even(sensitivity: Tensor) -> Tensor:
    """B [d_out, d_out] float64, symmetric: vectors B y with |y| of one length cost about as much in any direction.

    B = ((S + a s I) / (1 + a))^(-1/2) with s = tr S / d_out and a = 0.1, so that B = S^(-1/2) where S is a multiple of
    I: of a moment from few tokens the small eigenvalues are too small.
    """
    values, vectors = torch.linalg.eigh(sensitivity.double())
    scale = ((values.clamp_min(0) + ISOTROPIC * sensitivity.trace() / len(sensitivity)) / (1 + ISOTROPIC)).rsqrt()
    shape: Tensor = (vectors * scale) @ vectors.T
    return shape


def drawn_tokens(logits: Tensor, generator: torch.Generator) -> Tensor:
    """To every row of logits [n, vocabulary] a token drawn from it [n]: one number a row, not one a token."""
    summed = logits.softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(summed, torch.rand(len(logits), 1, generator=generator) * summed[:, -1:])
    return drawn[:, 0].clamp_max(logits.shape[1] - 1)


def _rows(editable: EditableModel, texts: Sequence[str], tokens: int) -> list[list[int]]:
    """Token ids of the texts in rows of at most 128, until there are about `tokens`; each row has two or more.

    Every row begins as a text does: a model that was trained with a BOS may compute nonsense without.
    """
    width, rows, read = min(ROW, editable.context_length), list[list[int]](), 0
    for text in texts:
        cut = editable.tokenizer(text, truncation=True, max_length=width, return_overflowing_tokens=True).input_ids
        cut = cut[: math.ceil((tokens - read) / width)]
        rows += [row for row in cut if len(row) > 1]
        read += sum(map(len, cut))
        if read >= tokens:
            break
    if not rows:
        raise RequestError(
            "The text holds no two tokens in a row. Give some text to see what the model is sensitive to."
        )
    return rows


def _gradients(
    editable: EditableModel, layers: Sequence[int], rows: Sequence[list[int]], generator: torch.Generator
) -> dict[int, Tensor]:
    """g at every token of the rows, to each layer [tokens, d_out]; the model is left as it was."""
    ids, mask = (padded.to(editable.device) for padded in right_padded(rows))
    real = mask.bool()
    lowest: list[Tensor] = []

    def begin(output: Tensor) -> Tensor:
        lowest.append(output.detach().requires_grad_())
        return lowest[0]

    with ExitStack() as stack, torch.enable_grad():
        higher = [stack.enter_context(captured(editable.write(layer))) for layer in layers[1:]]
        stack.enter_context(replaced_output(editable.write(layers[0]), begin))
        with editable.hurried():
            logits = editable.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        said = logits[real].float()
        drawn = drawn_tokens(said.detach().cpu(), generator).to(said.device)
        surprise = torch.nn.functional.cross_entropy(said, drawn, reduction="sum")
        gradients = torch.autograd.grad(surprise, [lowest[0], *(seen.output for seen in higher)])
    return {layer: gradient[real] for layer, gradient in zip(layers, gradients, strict=True)}
