"""Target vectors: what the edited weight should give at the subject's last token so that the target is said.

The only gradient loop of the engine. For one fact the objective over delta [d_out] is

    J = mean over contexts and target tokens of -log p(token)  +  kl * KL(p | p_base)  +  decay * |delta| / |h_0|^2

with delta added to the edited weight's output at the subject's last token in every row, the KL read at the same token
of "{subject} is a" (ROME, arXiv 2202.05262; MEMIT, arXiv 2210.07229). All facts of a batch go together, each with its
own clamp and stop; what delta cannot reach is computed once (`frozen.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lifelong_edit.editing.frozen import FrozenRows
from lifelong_edit.editing.keys import check_finite
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """How targets are optimised.

    `rate` is relative: one Adam step moves an entry of delta by about rate * |h_0| / sqrt(d_out). `clamp` bounds
    |delta| / |h_0|. A fact stops when its J falls below `stop`, at the latest after `steps` evaluations.
    """

    steps: int = 25
    rate: float = 0.15
    stop: float = 0.05
    clamp: float = 1.5
    decay: float = 0.5
    kl: float = 0.0625
    facts_per_pass: int = 16

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in asdict(self).items() if not 0 <= value < float("inf")}
        if wrong or self.steps < 1 or self.facts_per_pass < 1 or self.rate == 0 or self.clamp == 0:
            raise RequestError(f"These target settings make no sense: {wrong or self}. Give finite positive numbers.")


@dataclass(frozen=True)
class Targets:
    """Optimised targets of n facts: `delta` [d_out, n], float64; the loss each ended with and after how many steps."""

    delta: Tensor
    loss: tuple[float, ...]
    steps: tuple[int, ...]


def optimise_targets(
    editable: EditableModel,
    requests: Sequence[EditRequest],
    layer: int,
    contexts: Sequence[str],
    settings: TargetSettings,
) -> Targets:
    """Targets for the weights as they are now; the model is left as it was.

    A fact's target does not depend on what else is in the batch, within float tolerance. Raises `SolveError` naming
    the facts whose gradient or loss is not finite.
    """
    rows = FrozenRows.lengths(editable, requests)
    order = sorted(range(len(requests)), key=lambda i: rows[i])  # facts with tails of like length share a pass
    found: dict[int, tuple[Tensor, float, int]] = {}
    for start in range(0, len(order), settings.facts_per_pass):
        part = order[start : start + settings.facts_per_pass]
        found.update(
            zip(part, _optimise(editable, [requests[i] for i in part], layer, contexts, settings), strict=True)
        )
    return Targets(
        delta=torch.stack([found[i][0] for i in range(len(requests))], dim=1).cpu().double(),
        loss=tuple(found[i][1] for i in range(len(requests))),
        steps=tuple(found[i][2] for i in range(len(requests))),
    )


def _optimise(
    editable: EditableModel,
    requests: Sequence[EditRequest],
    layer: int,
    contexts: Sequence[str],
    settings: TargetSettings,
) -> list[tuple[Tensor, float, int]]:
    """(delta [d_out], loss, steps) of each fact of one pass."""
    frozen = FrozenRows.run(editable, requests, layer, contexts)
    reference = frozen.reference_norm  # |h_0|  [n]
    unit = reference / frozen.d_out**0.5  # one unit of `scaled`, so that a plain Adam rate is relative to |h_0|
    scaled = torch.zeros(len(requests), frozen.d_out, dtype=reference.dtype, device=reference.device)
    scaled.requires_grad_()
    adam = torch.optim.Adam([scaled], lr=settings.rate)
    active = torch.arange(len(requests), device=reference.device)
    results: dict[int, tuple[Tensor, float, int]] = {}
    for step in range(1, settings.steps + 1):
        delta = scaled[active] * unit[active, None]  # [active, d_out]
        loss = frozen.loss(delta, settings.kl) + settings.decay * norm(delta) / reference[active] ** 2
        check_finite(loss.detach()[None], [requests[i] for i in active.tolist()], "target's loss")
        done = loss.detach() < settings.stop if step < settings.steps else torch.ones_like(loss, dtype=torch.bool)
        for at in done.nonzero().flatten().tolist():
            results[int(active[at])] = (delta[at].detach().clone(), loss[at].item(), step)
        if done.all():
            break
        adam.zero_grad()
        torch.autograd.backward(loss[~done].sum())
        check_finite(scaled.grad.T, requests, "target's gradient")  # type: ignore[union-attr]
        adam.step()
        with torch.no_grad():
            limit = settings.clamp * reference / unit
            scaled.mul_((limit / norm(scaled).clamp_min(1e-30)).clamp(max=1.0)[:, None])
        if done.any():
            frozen, active = frozen.take(~done), active[~done]
    return [results[i] for i in range(len(requests))]


def norm(rows: Tensor) -> Tensor:
    """Euclidean norms of the rows; the gradient at a zero row is zero, not NaN."""
    return (rows.square().sum(-1) + torch.finfo(rows.dtype).tiny).sqrt()
