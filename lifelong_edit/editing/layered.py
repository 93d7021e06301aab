"""Targets of several layers at once: every edited weight gets a delta of its own, and all are optimised together.

What a subject should mean is written into the stream by the sum of the layers' deltas, while the harm each does to what
nobody edits grows with its square: L layers that share the work do about an L-th of it. For one fact of a group

    J = mean over forms and target tokens of max(0, margin - gap)  +  kl * KL(p | p_base)
        +  cost * sum over layers of price_l |x_l|^2 / d

    delta_l = |h_l| / sqrt(d) * B_l x_l

where gap is how far, in nats, the target token lies above the likeliest other one, so that nothing is asked of a form
that says the fact by the margin. |h_l| is the size of the stream. With B_l, vectors x of one length cost other text
about the same in any direction (`sensitivity`). price_l is the mean key mass of generic text over that of this fact:
what is written along a common key reaches far. Adam's rate falls to zero. Afterwards the deltas are shrunk, all of a
group alike, as far as no form loses.

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
from lifelong_edit.editing.rows import Answers, FrozenRows, check_descent, norm, passes, tail
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel

MOST_LAYERS = 8
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)  # by which deltas are tried smaller
SLACK = 0.4  # nats of the margin that shrinking may take
EVENNESS = 0.5  # ridge of the weights of forms in a mean key, in mean key masses
LOST = 1.1, 0.005  # what is missing may grow by this factor and summand


@dataclass(frozen=True, slots=True)
class LayeredSettings:
    """How targets of several layers are optimised.

    `margin` is how far, in nats, a form's target is to lie above anything else. `rate` is Adam's, in the units of x;
    `clamp` bounds |x_l| / sqrt(d). `gaps`: how many copies of the prompt with words left out stand for wordings that
    were not given. `pool`: of how many sentences of the store's text a fact draws its prefixes. `sensitivity_tokens`:
    from how many tokens of that text sensitivities are taken; 0 for B = I, as where there is no text. `coarse`: whether
    the products of a float32 model are taken in bfloat16 while a target is sought, which processors made for it do
    several times faster; keys and weights never are. A pass takes `facts_per_pass` facts, or one larger group.
    """

    margin: float = 1.5
    steps: int = 15
    rate: float = 0.03
    clamp: float = 0.3
    cost: float = 0.73
    kl: float = 0.0625
    gaps: int = 4
    pool: int = 32
    sensitivity_tokens: int = 20_000
    coarse: bool = True
    facts_per_pass: int = 16

    ridge: ClassVar[float | None] = 0.15
    confidence: ClassVar[float] = 0.05  # the margin is asked of the target; here a first choice will do

    def __post_init__(self) -> None:
        check_descent(self)

    def layers(self, depth: int) -> tuple[int, ...]:
        """The layers edited in a model of this depth: up to eight, to the end of the first quarter, never the last."""
        end = max(1, min(depth // 4 + 2, depth - 1))
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
    """Targets of n groups by layer: deltas [d_out, n] and keys [d_in, n], float64; the worst fact's J; evaluations."""

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

    `shapes` are B_l [d_out, d_out], or none for B_l = I. The model is left as it was. Raises `RequestError` naming the
    facts of a group that do not share a slot, and for a subject at the first token that no prefix can be put before;
    `SolveError` naming the facts whose gradient or loss is not finite.
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
    facts, group = [request for group in groups for request in group], frozen.fact_groups
    unit = frozen.reference / frozen.d_out**0.5  # |h_l| / sqrt(d)  [L, n]
    averages = [settings.average(metrics[layer]) for layer in layers]
    price = _prices(frozen, metrics, averages).to(unit.dtype)  # [L, n]
    scaled = torch.zeros(*unit.shape, frozen.d_out, dtype=unit.dtype, device=unit.device)  # x  [L, n, d_out]
    scaled.requires_grad_()
    shape = torch.stack([shapes[layer] for layer in layers]).to(unit) if shapes else None  # B  [L, d_out, d_out]

    def moved(scaled: Tensor) -> Tensor:
        """delta [L, n, d_out]."""
        even: Tensor = scaled if shape is None else scaled @ shape
        delta: Tensor = unit[..., None] * even
        return delta

    adam = torch.optim.Adam([scaled], lr=settings.rate)
    for step in range(1, settings.steps + 1):
        with editable.hurried(settings.coarse):
            answers = frozen.answers(moved(scaled))
        size = (price * scaled.square().sum(-1)).sum(0) / frozen.d_out  # [n]
        held = settings.kl * answers.divergence + settings.cost * size  # [n]
        loss = missing(frozen, answers, settings.margin) + held[group]  # J of every fact
        check_finite(loss.detach()[None], facts, "target's loss")
        if step == settings.steps:
            break
        adam.zero_grad()
        torch.autograd.backward((loss / frozen.fact_counts[group]).sum())
        check_finite(scaled.grad.transpose(0, 1).flatten(1)[group].T, facts, "target's gradient")  # type: ignore[union-attr]
        adam.param_groups[0]["lr"] = settings.rate * min(1.0, 2 * (1 - step / settings.steps))
        adam.step()
        with torch.no_grad():
            limit = settings.clamp * frozen.d_out**0.5
            scaled.mul_((limit / norm(scaled).clamp_min(1e-30)).clamp(max=1.0)[..., None])
    with editable.hurried(settings.coarse):
        deltas = _shrunk(frozen, moved(scaled.detach()), answers, settings.margin)
    worst = torch.zeros_like(size).scatter_reduce(0, group, loss.detach(), "amax", include_self=False)
    return LayeredTargets(
        {n: delta.double().T for n, delta in zip(layers, deltas, strict=True)},
        dict(zip(layers, frozen.keys(averages, deltas), strict=True)),
        tuple(worst.tolist()),
        (settings.steps,) * len(groups),
    )


def _prices(frozen: FrozenRows, metrics: Mapping[int, Metric], averages: Sequence[Average]) -> Tensor:
    """Mean key mass of generic text over that of every group's key [L, n], at each layer."""
    rows = []
    for keys, (_, metric) in zip(frozen.keys(averages), sorted(metrics.items()), strict=True):
        mass = (keys * metric.whiten(keys)).sum(0)
        rows.append(metric.mean_key_mass / mass)
    return torch.stack(rows)


def missing(frozen: FrozenRows, answers: Answers, margin: float) -> Tensor:
    """To every fact [F] how much of the margin its target tokens lack."""
    asked = frozen.questions
    own = answers.logs.gather(1, asked.tokens[:, None])[:, 0]
    other = answers.logs.scatter(1, asked.tokens[:, None], -math.inf).amax(1)
    return asked.mean((margin - own + other).clamp_min(0), len(frozen.fact_groups))


@torch.no_grad()
def _shrunk(frozen: FrozenRows, deltas: Tensor, answers: Answers, margin: float) -> Tensor:
    """The deltas [L, n, d_out], those of a group smaller by the last of `SHARES` at which its facts lose nothing.

    `answers` are those that the whole deltas gave.
    """
    factor, limit = LOST
    group, margin = frozen.fact_groups, max(0.0, margin - SLACK)

    def lacking(answers: Answers) -> Tensor:
        own = missing(frozen, answers, margin)
        return own.new_zeros(len(frozen.fact_counts)).scatter_reduce(0, group, own, "amax")

    allowed = lacking(answers) * factor + limit
    best, holds = torch.ones_like(allowed), torch.ones_like(allowed, dtype=torch.bool)
    for share in SHARES:
        holds = holds & (lacking(frozen.answers(deltas * share)) <= allowed)
        best = torch.where(holds, share, best)
        if not holds.any():
            break
    return deltas * best[:, None]
