"""Telling rounding from damage: how far weights folded here are from those that an entry recorded elsewhere.

A sum of products has other last bits with another processor, number of threads or device, and a weight that lies in the
middle between two float32 numbers is then rounded to the other one, which changes the digest of all. Which weights lie
there can be counted, and how far two ways to the weights are apart here says how near is near enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-9  # of what was changed: a larger distance has another cause; 1e-14 is usual, and the condition scales it
MARGIN = 16  # how much farther apart than two ways on one processor the same way on two may lead
ROWS = 256  # of a weight that are looked at at a time


@dataclass(frozen=True, slots=True)
class Deviation:
    """The distance of folded weights from the sum of the recorded changes, as a share of all that was changed.

    `undecided` of `numbers` weights lie so near to the middle of two float32 numbers that rounding may take either.
    """

    share: float = 0.0
    undecided: int = 0
    numbers: int = 0

    @property
    def is_rounding(self) -> bool:
        """Whether rounding alone explains another digest of the weights."""
        return self.share <= ROUNDING and self.undecided > 0

    @classmethod
    def of(cls, base: Tensor, folded: Tensor, summed: Tensor) -> Deviation:
        """That of one weight [d_out, d_in], float64, from the `summed` one; a share of |base| where nothing changed."""
        apart = folded - summed
        changed = float((folded - base.double()).norm()) or float(base.double().norm())
        slack = MARGIN * (apart.abs().max() + torch.finfo(torch.float64).eps * folded.abs().max())
        parts = torch.split(folded, ROWS)
        undecided = [int(((part - slack).float() != (part + slack).float()).sum()) for part in parts]
        return cls(float(apart.norm()) / changed, sum(undecided), folded.numel())

    @classmethod
    def worst(cls, deviations: Iterable[Deviation]) -> Deviation:
        """That of several weights together, at least one: the largest share, and all that is undecided."""
        every = list(deviations)
        return cls(
            max(one.share for one in every), sum(one.undecided for one in every), sum(one.numbers for one in every)
        )
