"""Target vectors: what the edited weight should give at the subject's last token so that the targets are said.

The only gradient loop of the engine. Facts of one slot have one key, so they go as a group with one delta [d_out]. For
one fact of a group

    J = mean over contexts and target tokens of -log p(token)  +  kl * KL(p | p_base)  +  decay * |delta| / |h_0|^2

with delta added to the edited weight's output at the subject's last token in every row, the KL read at the same token
of "{subject} is a" (ROME, arXiv 2202.05262; MEMIT, arXiv 2210.07229). A group minimises the mean of its facts' J and
stops by the worst. All groups of a batch go together, each with its own clamp and stop.

What delta cannot reach is computed once (`rows.FrozenRows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.editing.keys import Average, Forms, check_finite, halved, prefixed
from lifelong_edit.editing.rows import FrozenRows, check_descent, norm, passes, tail
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """How targets are optimised.

    `rate` is relative: one Adam step moves an entry of delta by about rate * |h_0| / sqrt(d_out). `clamp` bounds
    |delta| / |h_0|. A group stops when the J of all its facts is below `stop`, at the latest after `steps` evaluations.
    A pass takes `facts_per_pass` facts, or one larger group.
    """

    steps: int = 25
    rate: float = 0.15
    stop: float = 0.05
    clamp: float = 1.5
    decay: float = 0.5
    kl: float = 0.0625
    facts_per_pass: int = 16

    pool: ClassVar[int] = 0  # every fact stands behind all contexts, which are sampled
    sensitivity_tokens: ClassVar[int] = 0  # the size of a target is the plain one
    ridge: ClassVar[float | None] = None  # the method's own
    confidence: ClassVar[float] = 0.85

    def __post_init__(self) -> None:
        check_descent(self, positive=("rate", "clamp"))

    def layers(self, depth: int) -> tuple[int, ...]:
        """The layer edited in a model of this depth: at a fifth of it, where MEMIT edits GPT-J and Llama."""
        return (depth // 5,)

    def forms(self, contexts: Sequence[str]) -> Forms:
        """The texts that a fact is fitted to: its prompt, bare and behind every context."""
        return prefixed(contexts)

    def average(self, metric: Metric) -> Average:
        """How the key of a fact is made of those of its forms."""
        return halved


@dataclass(frozen=True)
class Targets:
    """Optimised targets of n groups: `delta` [d_out, n], float64; the worst fact's J at the end; evaluations."""

    delta: Tensor
    loss: tuple[float, ...]
    steps: tuple[int, ...]


def optimise_targets(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    layer: int,
    contexts: Sequence[str],
    settings: TargetSettings,
) -> Targets:
    """Targets of groups of facts, each group the facts of one slot, for the weights as they are now.

    The model is left as it was. A group's target does not depend on what else is in the batch, within float tolerance.
    Raises `RequestError` naming the facts of a group that do not share a slot, `SolveError` naming the facts whose
    gradient or loss is not finite.
    """
    found: dict[int, tuple[Tensor, float, int]] = {}
    delta = torch.zeros(editable.shape(layer)[0], len(groups), dtype=torch.float64, device=editable.device)
    for part in passes(groups, [tail(editable, group) for group in groups], settings.facts_per_pass):
        found.update(zip(part, _optimise(editable, [groups[i] for i in part], layer, contexts, settings), strict=True))
    for i, (own, _, _) in found.items():
        delta[:, i] = own
    return Targets(
        delta=delta,
        loss=tuple(found[i][1] for i in range(len(groups))),
        steps=tuple(found[i][2] for i in range(len(groups))),
    )


def _optimise(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    layer: int,
    contexts: Sequence[str],
    settings: TargetSettings,
) -> list[tuple[Tensor, float, int]]:
    """(delta [d_out], worst fact's J, steps) of each group of one pass."""
    frozen = FrozenRows.run(editable, groups, (layer,), settings.forms(contexts))
    reference = frozen.reference_norm  # |h_0|  [n]
    unit = reference / frozen.d_out**0.5  # one unit of `scaled`, so that a plain Adam rate is relative to |h_0|
    scaled = torch.zeros(len(groups), frozen.d_out, dtype=reference.dtype, device=reference.device)
    scaled.requires_grad_()
    adam = torch.optim.Adam([scaled], lr=settings.rate)
    active = torch.arange(len(groups), device=reference.device)
    results: dict[int, tuple[Tensor, float, int]] = {}
    for step in range(1, settings.steps + 1):
        delta = scaled[active] * unit[active, None]  # [active, d_out]
        facts, group = [r for i in active.tolist() for r in groups[i]], frozen.fact_groups
        decay = settings.decay * norm(delta) / reference[active] ** 2
        loss = frozen.loss(delta, settings.kl) + decay[group]  # J of every fact
        check_finite(loss.detach()[None], facts, "target's loss")
        worst = torch.zeros_like(decay).scatter_reduce(0, group, loss.detach(), "amax", include_self=False)
        done = worst < settings.stop if step < settings.steps else torch.ones_like(worst, dtype=torch.bool)
        for at in done.nonzero().flatten().tolist():
            results[int(active[at])] = (delta[at].detach().clone(), worst[at].item(), step)
        if done.all():
            break
        adam.zero_grad()
        shares = loss / frozen.fact_counts[group]  # they sum to each group's mean
        torch.autograd.backward(shares[~done[group]].sum())
        check_finite(scaled.grad[active][group].T, facts, "target's gradient")  # type: ignore[index]
        adam.step()
        with torch.no_grad():
            limit = settings.clamp * reference / unit
            scaled.mul_((limit / norm(scaled).clamp_min(1e-30)).clamp(max=1.0)[:, None])
        if done.any():
            frozen, active = frozen.take(~done), active[~done]
    return [results[i] for i in range(len(groups))]
