"""Which facts are likely forgotten, from stored keys and values: no forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from lifelong_edit.algebra.telemetry import Telemetry

NEEDED = 0.6  # of what the weights held of a fact right after its batch; what is left below it is missed
ACROSS = 0.2  # what was written across the wanted change counts, where what is missing along it counts 1


def risks(read: Telemetry) -> Tensor:
    """NEEDED h_own - h + ACROSS x for each fact [n]: above 0 it is at risk of being forgotten.

    h = <D k, r_0> / |r_0|^2 is the share of the wanted change that W holds, h_own the same right after the fact's own
    batch, and x = |D k - h r_0| / |r_0| what others wrote across it. How much of the change a fact needs to be said
    differs from fact to fact; what it was written with says most of it. NaN where nothing was to change. How this ranks
    true forgetting, beside the residual alone, is in docs/telemetry.md.
    """
    sizes = torch.tensor(read.sizes, device=read.written.device)
    batch = torch.arange(len(sizes), device=sizes.device)
    earlier = batch[:, None] <= batch.repeat_interleave(sizes)  # written by the own batch or before it  [batches, n]
    held, own = read.written.sum(dim=0), read.written.where(earlier, 0.0).sum(dim=0)
    across = (read.residual.square() - (1 - held).square()).clamp_min(0.0).sqrt()  # r_0 - D k = (1 - h) r_0 - across
    return NEEDED * own - held + ACROSS * across
