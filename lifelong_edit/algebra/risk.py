"""Which facts are likely forgotten, from stored keys and values: no forward pass."""

from __future__ import annotations

import math

from torch import Tensor

from lifelong_edit.algebra.columns import Columns, Pair

ACROSS = 0.5  # what missing across the wanted change counts, where missing along it counts 1
FLAGGED = 0.7  # risk from which a fact is called at risk


def risks(columns: Columns, delta: Pair) -> Tensor:
    """How far what is missing, e = v - W k, keeps each fact from being said [n]; NaN where nothing was to change.

    <e, r_0> / |r_0|^2 is the share of the wanted change that is gone, and the length of what e has across r_0, over
    |r_0|, noise that others wrote. They are weighed 1 and `ACROSS`: docs/telemetry.md has how this ranks true
    forgetting, beside |e| / |r_0| alone.
    """
    asked = columns.base_residuals  # r_0  [d_out, n]
    missing = asked - delta.left @ (delta.right.T @ columns.keys)  # e  [d_out, n]
    square = asked.square().sum(dim=0)
    square = square.where(square > 0, math.nan)
    along = (missing * asked).sum(dim=0) / square
    across = (missing.square().sum(dim=0) / square - along.square()).clamp_min(0.0).sqrt()
    return along + ACROSS * across
