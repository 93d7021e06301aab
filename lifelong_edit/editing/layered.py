"""Targets of several layers at once: every edited weight gets a delta of its own, and all are sought together.

Of all deltas that say a fact by a margin in each of its forms, those are sought that other text feels least. Written
through a key of mass m_l = k'C_l^-1 k, a delta of layer l costs other text delta' S_l delta / 2 m_l nats a token, S_l
its sensitivity to what the layer writes (`sensitivity`). So with delta_l = sqrt(m_l) S_l^-1/2 y_l

    minimise |y|^2   so that   odds_f(y) >= margin  for every form f,   KL(p | p_base) <= drift

where odds are the log-odds, log p / (1 - p), of the token of the target that does worst, and KL is what becomes of
"{} is a" for the subject. This is sequential quadratic programming: with J the gradients of all that is
asked, one row each, and s how much each has to spare, negative where it lacks something,

    dy = -decay y + J'a,   the least a >= 0 with   J dy >= -closing s

undoes a little of what was done and closes a part of what is missing by the least change. The last steps undo nothing.

Residual and key of every layer are those of the run with all deltas in, as the edited model will have them. Nothing
depends on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.editing.keys import Average, Forms, check_finite, reworded
from lifelong_edit.editing.rows import FrozenRows, check_descent, passes, tail
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel

MOST_LAYERS = 10
LAST = 3  # steps that undo nothing
EVENNESS = 0.5  # ridge of the weights of forms in a mean key, in mean key masses
STIFFNESS, SWEEPS = 1e-3, 100  # of the least change: ridge in largest squared gradients; rounds over what is asked


@dataclass(frozen=True, slots=True)
class LayeredSettings:
    """How targets of several layers are sought.

    `margin` is what the log-odds of every target token are to be in every form, `drift` how many nats the text after
    the bare subject may change. Each of `steps` closes the part `closing` of what is missing and undoes the part
    `decay` of what was done; it moves no layer by more than `stride` of the size of the stream there, all of them
    together by no more than `clamp`. `gaps`: how many copies of the prompt with words left out stand for wordings
    that were not given. `pool`: of how many sentences of the store's text a fact draws its prefixes.
    `sensitivity_tokens`: from how many tokens of that text sensitivities are taken; 0 for the plain size relative to
    the stream, as where there is no text. `coarse`: whether the products of a float32 model are taken in bfloat16
    while a target is sought, which processors made for it do several times faster; keys and weights never are. A pass
    takes `facts_per_pass` facts, or one larger group.
    """

    margin: float = 3.0
    drift: float = 2.0
    steps: int = 15
    closing: float = 0.5
    decay: float = 0.1
    stride: float = 0.1
    clamp: float = 0.5
    gaps: int = 8
    pool: int = 32
    sensitivity_tokens: int = 20_000
    coarse: bool = True
    facts_per_pass: int = 8

    ridge: ClassVar[float | None] = 0.05
    confidence: ClassVar[float] = 0.05  # the margin is asked of the target; here a first choice will do

    def __post_init__(self) -> None:
        check_descent(self, positive=("closing", "stride", "clamp"))
        if self.closing > 1 or self.decay >= 1:
            raise RequestError(f"A closing is at most 1 and a decay below it, not {self.closing} and {self.decay}.")

    def layers(self, depth: int) -> tuple[int, ...]:
        """The layers edited in a model of this depth: up to ten, to the end of the first third, never the last."""
        end = max(1, min(depth // 3 + 1, depth - 1))
        return tuple(range(max(min(1, depth // 4), end - MOST_LAYERS), end))

    def forms(self, contexts: Sequence[str]) -> Forms:
        """The texts that a fact is fitted to."""
        return reworded(contexts, self.gaps)

    def average(self, metric: Metric) -> Average:
        """How the key of a fact is made of those of its forms."""
        return partial(answering, metric=metric)


def answering(keys: Tensor, metric: Metric) -> Tensor:
    """The mean key [d_in] of `keys` [forms, d_in] through which a lone fact is written into all forms alike.

    With q = C^-1 k for k = K' w, what a change r q' gives at the forms is r (G w)', G = K C^-1 K' [forms, forms]; the
    weights w = (G + ridge I)^-1 1, scaled to sum to 1, bring G w as near to equal as the ridge lets them.
    """
    gram = keys @ metric.whiten(keys.T)
    ridge = EVENNESS * metric.mean_key_mass * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + ridge, torch.ones_like(gram[0]))
    mean: Tensor = weights @ keys / weights.sum()
    return mean


@dataclass(frozen=True)
class LayeredTargets:
    """Targets of n groups by layer: deltas [d_out, n] and keys [d_in, n], float64; what the worst form lacks; steps."""

    deltas: Mapping[int, Tensor]
    keys: Mapping[int, Tensor]
    loss: tuple[float, ...]
    steps: tuple[int, ...]


def optimise_layers(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    metrics: Mapping[int, Metric],
    contexts: Sequence[str],
    settings: LayeredSettings,
    shapes: Mapping[int, Tensor],
) -> LayeredTargets:
    """Targets at the layers of `metrics` for groups of facts, each the facts of one slot, for the weights as they are.

    `shapes` are B_l [d_out, d_out], or none for the plain size relative to the stream. The model is left as it was.
    Raises `RequestError` naming the facts of a group that do not share a slot, and for a subject at the first token
    that no prefix can be put before; `SolveError` naming the facts whose gradient or loss is not finite.
    """
    deltas, keys = (
        {
            n: torch.zeros(editable.shape(n)[side], len(groups), dtype=torch.float64, device=editable.device)
            for n in metrics
        }
        for side in (0, 1)
    )
    loss = [0.0] * len(groups)
    for part in passes(groups, [tail(editable, group) for group in groups], settings.facts_per_pass):
        found = _optimise(editable, [groups[i] for i in part], metrics, contexts, settings, shapes)
        for n in metrics:
            deltas[n][:, part], keys[n][:, part] = found.deltas[n], found.keys[n]
        for i, own in zip(part, found.loss, strict=True):
            loss[i] = own
    return LayeredTargets(deltas, keys, tuple(loss), (settings.steps,) * len(groups))


def _optimise(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    metrics: Mapping[int, Metric],
    contexts: Sequence[str],
    settings: LayeredSettings,
    shapes: Mapping[int, Tensor],
) -> LayeredTargets:
    """The targets of one pass."""
    layers = sorted(metrics)
    frozen = FrozenRows.run(editable, groups, layers, settings.forms(contexts))
    facts, stream = [request for group in groups for request in group], frozen.reference.double()  # |h_l|  [L, n]
    averages = [settings.average(metrics[layer]) for layer in layers]
    scale = _masses(frozen, metrics, averages).sqrt()  # [L, n]
    if shapes:
        shape = torch.stack([shapes[layer] for layer in layers]).to(stream)  # S_l^-1/2  [L, d_out, d_out]
    else:
        shape, scale = torch.eye(frozen.d_out, dtype=stream.dtype, device=stream.device), scale * stream
    least = torch.zeros(*stream.shape, frozen.d_out, dtype=stream.dtype, device=stream.device)  # y  [L, n, d_out]

    def moved(least: Tensor) -> Tensor:
        """delta [L, n, d_out]."""
        delta: Tensor = (scale[..., None] * least) @ shape
        return delta

    def within(least: Tensor, most: float) -> Tensor:
        """These y, shorter where they move a layer by more than `most` of the stream."""
        longest = (moved(least).norm(dim=-1) / stream).amax(0)  # [n]
        shorter: Tensor = least * (most / longest.clamp_min(1e-30)).clamp(max=1.0)[:, None]
        return shorter

    for step in range(settings.steps):
        rows = frozen.by_row(moved(least)).to(frozen.hidden.dtype).requires_grad_()  # [L, B, d_out]
        with editable.hurried(settings.coarse):
            spare = _spare(frozen, rows, settings)  # [B]
        worst = frozen.least_of_groups(spare.detach())  # [n]
        check_finite(worst[None, frozen.fact_groups], facts, "target's loss")
        if step == settings.steps - 1:
            break
        (gradient,) = torch.autograd.grad(spare.sum(), rows)  # every row's own: a row depends on its own deltas alone
        slopes = (frozen.by_row(scale[..., None]) * gradient.double()) @ shape  # [L, B, d_out]
        check_finite(frozen.least_of_groups(slopes.sum((0, 2)))[None, frozen.fact_groups], facts, "target's gradient")
        decay = settings.decay if step < settings.steps - 1 - LAST else 0.0
        change = _least_change(frozen, slopes, spare.detach().double(), least, settings.closing, decay)
        least = within(least + within(change, settings.stride), settings.clamp)
    deltas = moved(least)
    return LayeredTargets(
        {n: delta.T for n, delta in zip(layers, deltas, strict=True)},
        dict(zip(layers, frozen.keys(averages, deltas), strict=True)),
        tuple((-worst).clamp_min(0).tolist()),
        (settings.steps,) * len(groups),
    )


def _masses(frozen: FrozenRows, metrics: Mapping[int, Metric], averages: Sequence[Average]) -> Tensor:
    """m = k' C^-1 k [L, n] of every group's key at each layer, as it is without deltas."""
    pairs = zip(frozen.keys(averages), sorted(metrics.items()), strict=True)
    return torch.stack([(keys * metric.whiten(keys)).sum(0) for keys, (_, metric) in pairs])


def _spare(frozen: FrozenRows, rows: Tensor, settings: LayeredSettings) -> Tensor:
    """To every row [B] by how much it does more than is asked of it, with deltas [L, B, d_out] of its own in place."""
    answers, asked = frozen.answers(rows), frozen.questions
    own = answers.logs.gather(1, asked.tokens[:, None])[:, 0]
    other = answers.logs.scatter(1, asked.tokens[:, None], -math.inf).logsumexp(1)
    worst = own.new_full((rows.shape[1],), math.inf).scatter_reduce(0, asked.rows, own - other, "amin")
    spare: Tensor = (worst - settings.margin).index_put((frozen.essence,), settings.drift - answers.divergence)
    return spare


def _least_change(
    frozen: FrozenRows, slopes: Tensor, spare: Tensor, least: Tensor, closing: float, decay: float
) -> Tensor:
    """dy [L, n, d_out]: every group's least change that closes a part of what its rows lack and undoes a part of y.

    `slopes` [L, B, d_out] are the rows' gradients with respect to y, `spare` [B] what they have left.
    """
    wanted = decay * (slopes * frozen.by_row(least)).sum((0, 2)) - closing * spare  # [B]
    groups, places = frozen.row_groups, frozen.row_places
    shape = len(frozen.row_counts), int(frozen.row_counts.max())
    # Groups side by side, those of few rows filled up with rows of which nothing is asked.
    jacobian = slopes.new_zeros(*shape, slopes.shape[0] * slopes.shape[2])  # J  [n, R, L d_out]
    jacobian[groups, places] = slopes.transpose(0, 1).flatten(1)
    asked = slopes.new_full(shape, -math.inf)
    asked[groups, places] = wanted
    weights = least_weights(jacobian @ jacobian.transpose(1, 2), asked)  # a  [n, R]
    change = (weights[:, None] @ jacobian)[:, 0]  # J'a  [n, L d_out]
    closed: Tensor = change.view(shape[0], *slopes.shape[::2]).transpose(0, 1)
    return closed - decay * least


def least_weights(gram: Tensor, asked: Tensor) -> Tensor:
    """a >= 0 [n, R] of least a'(G + ridge) a / 2 - a'b: with v = J'a the least |v| so that J v >= b, about.

    `gram` is G = J J' [n, R, R], `asked` b [n, R]; -inf asks nothing. The small ridge lets what contradicts itself be
    missed. By Hildreth's procedure (Quarterly of Applied Mathematics 14, 1957): one row after the other, in turn.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    ridge = STIFFNESS * diagonal.amax(1, keepdim=True).clamp_min(torch.finfo(gram.dtype).tiny)
    diagonal, weights = diagonal + ridge, torch.zeros_like(asked)
    for row in list(range(asked.shape[1])) * SWEEPS:
        left = asked[:, row] - (gram[:, row] * weights).sum(1) - ridge[:, 0] * weights[:, row]
        weights[:, row] = (weights[:, row] + left / diagonal[:, row]).clamp_min(0)
    return weights
