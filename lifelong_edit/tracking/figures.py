"""A measured mean with its count and its uncertainty, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

NOT_A_NUMBER = "The model gives values that are no numbers."
SIGMAS = 1.96  # of a normal distribution hold 95 %


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over `count` things (requests, texts, questions); where `value` is None, `reason` says why.

    `error` is the standard error of `value` over the things, `interval` holds the true mean with 95 % where that is
    not `value` +- 1.96 `error`. `each` has the values of the things in the order they were given in, None for a thing
    that lacks what the figure needs. A value may be infinite, never a NaN.
    """

    value: float | None
    count: int
    error: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None
    each: tuple[float | None, ...] = ()


def mean_figure(each: Sequence[float | None], lacking: str) -> Figure:
    """Take the mean over the things that have a value; `lacking` is the reason when none has."""
    own = torch.tensor([value for value in each if value is not None], dtype=torch.float64)
    if not len(own):
        return Figure(None, 0, reason=lacking, each=tuple(each))
    value = float(own.mean())
    if math.isnan(value):
        return Figure(None, len(own), reason=NOT_A_NUMBER, each=tuple(each))
    error = float(own.std()) / math.sqrt(len(own)) if len(own) > 1 else math.nan
    return Figure(value, len(own), error if math.isfinite(error) else None, each=tuple(each))


def finite(value: float) -> float | None:
    """The number, or None where it is none: JSON has no NaN."""
    return value if math.isfinite(value) else None
