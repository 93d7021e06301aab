"""Which facts are likely forgotten, from stored keys and values: no forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lifelong_edit.algebra.columns import Columns, Pair

NEEDED = 0.6  # of what the weights held of a fact right after its batch; what is left below it is missed
ACROSS = 0.2  # what was written across the wanted change counts, where what is missing along it counts 1


def risks(batches: Sequence[Columns], pairs: Sequence[Pair]) -> Tensor:
    """NEEDED h_own - h + ACROSS x for each fact [n]: above 0 it is at risk of being forgotten.

    h = <D k, r_0> / |r_0|^2 is the share of the wanted change that W holds, h_own the same right after the fact's own
    batch, and x = |D k - h r_0| / |r_0| what others wrote across it. How much of the change a fact needs to be said
    differs from fact to fact; what it was written with says most of it. NaN where nothing was to change. How this ranks
    true forgetting, beside the residual alone, is in docs/telemetry.md.
    """
    every, delta = Columns.concatenate(batches), Pair.concatenate(pairs)
    overlap = delta.right.T @ every.keys  # U  [r, n]
    square = every.base_residuals.square().sum(dim=0)  # |r_0|^2  [n]
    square = square.where(square > 0, math.nan)
    parts = (delta.left.T @ every.base_residuals) * overlap / square  # of h, by column of the pairs  [r, n]
    batch_of = torch.arange(len(batches)).repeat_interleave(torch.tensor([len(columns) for columns in batches]))
    earlier = batch_of[:, None] <= batch_of[None, :]  # written by the own batch or before it  [r, n]
    held, own = parts.sum(dim=0), parts.where(earlier, 0.0).sum(dim=0)
    across = ((delta.left @ overlap).square().sum(dim=0) / square - held.square()).clamp_min(0.0).sqrt()
    return NEEDED * own - held + ACROSS * across
