"""How sensitive a model is to what an edited weight writes: a size of written vectors that other text feels.

S = E[g g'] with g = d log p(y | x) / d (output of W) at the tokens of generic text and labels y drawn from the model:
the Fisher information of the written vector. To second order a change of it by d costs d' S d / 2 nats a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import RunningSecondMoment
from lifelong_edit.editing.second_moments import moment_bytes, read_moment
from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured, replaced_output

GRADIENTS = "gradients"
ROW, ROWS_PER_PASS = 128, 4  # tokens of a row
ISOTROPIC = 0.1  # what the plain size counts beside the sensitive one


def collected_sensitivities(
    editable: EditableModel, layers: Sequence[int], texts: Sequence[str], tokens: int, seed: int
) -> dict[int, bytes]:
    """The file of S [d_out, d_out] at each layer, from about `tokens` tokens of the texts, in rows of 128."""
    moments = {layer: RunningSecondMoment(editable.shape(layer)[0]) for layer in sorted(layers)}
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.split(_rows(editable, texts, tokens), ROWS_PER_PASS):
        for layer, gradients in _gradients(editable, list(moments), rows, generator).items():
            moments[layer].add(gradients)
    return {n: moment_bytes(moment.value(), {"of": GRADIENTS, "layer": n}) for n, moment in moments.items()}


def read_sensitivity(data: bytes) -> Tensor:
    """S [d_out, d_out] of a file; `StoreCorrupt` when it holds something else."""
    moment, about = read_moment(data)
    if about.get("of") != GRADIENTS:
        raise StoreCorrupt("A file that should hold sensitivities holds something else. Restore it from a backup.")
    return moment.matrix


def even(sensitivity: Tensor) -> Tensor:
    """B [d_out, d_out] float64, symmetric: vectors B x with |x| of one length cost about as much in any direction.

    B = ((S / s + a I) / (1 + a))^(-1/2) with s = tr S / d_out and a = 0.1, so that B = I where S is a multiple of I.
    """
    relative = sensitivity.double() * len(sensitivity) / sensitivity.trace()
    values, vectors = torch.linalg.eigh(relative)
    scale = ((values.clamp_min(0) + ISOTROPIC) / (1 + ISOTROPIC)).rsqrt()
    shape: Tensor = (vectors * scale) @ vectors.T
    return shape


def _rows(editable: EditableModel, texts: Sequence[str], tokens: int) -> Tensor:
    """Token ids [rows, 128] of the texts one after the other, or fewer columns where a model takes no more."""
    width, ids = min(ROW, editable.context_length), list[int]()
    for text in texts:
        ids += editable.tokenizer(text, truncation=False, verbose=False).input_ids
        if len(ids) >= tokens + width:
            break
    rows = torch.tensor(ids[: len(ids) // width * width][: max(width, tokens // width * width)]).view(-1, width)
    if not len(rows):
        raise RequestError(
            f"The text has {len(ids)} tokens, too few to see what the model is sensitive to. Give at least {width}."
        )
    return rows


def _gradients(
    editable: EditableModel, layers: Sequence[int], rows: Tensor, generator: torch.Generator
) -> dict[int, Tensor]:
    """g at every token of the rows [B, T], to each layer [B T, d_out]; the model is left as it was."""
    lowest: list[Tensor] = []

    def begin(output: Tensor) -> Tensor:
        lowest.append(output.detach().requires_grad_())
        return lowest[0]

    with ExitStack() as stack, torch.enable_grad():
        higher = [stack.enter_context(captured(editable.write(layer))) for layer in layers[1:]]
        stack.enter_context(replaced_output(editable.write(layers[0]), begin))
        logits = editable.model(input_ids=rows.to(editable.device), use_cache=False).logits.flatten(0, 1).float()
        drawn = torch.multinomial(logits.detach().cpu().softmax(-1), 1, generator=generator)[:, 0].to(logits.device)
        surprise = torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
        gradients = torch.autograd.grad(surprise, [lowest[0], *(seen.output for seen in higher)])
    return {layer: gradient.flatten(0, 1) for layer, gradient in zip(layers, gradients, strict=True)}
