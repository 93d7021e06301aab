"""Easing: a lower ridge for just the facts that do not take. A ridge high enough to spare what nobody edits writes too
little of some facts; giving these alone a lower one brings them back almost for free (docs/front.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lifelong_edit.algebra.columns import Columns

ByLayer = Mapping[int, Columns]


def eased(
    columns: ByLayer, left: Sequence[int], said: Callable[[ByLayer], Sequence[bool]]
) -> tuple[dict[int, Columns], tuple[int, ...]]:
    """Halve the ridge of the facts that are not said, in all layers alike, until they are or their halvings are spent.

    Each layer holds the same n facts as columns; fact i may be halved `left[i]` times. `said` tells for given columns
    which of them the model says. A fact that does not come back keeps the ridge it had: lowering it bought nothing.
    Returns the columns, and how often each fact was halved.
    """
    limits = torch.tensor(left)  # [n]
    halved, now = torch.zeros_like(limits), dict(columns)
    missing = ~torch.tensor(list(said(now)), dtype=torch.bool)
    while (due := missing & (halved < limits)).any():
        halved = halved + due.long()
        now = _with(columns, halved)
        missing = ~torch.tensor(list(said(now)), dtype=torch.bool)
    halved = halved.where(~missing, 0)
    return _with(columns, halved), tuple(halved.tolist())


def _with(columns: ByLayer, halved: Tensor) -> dict[int, Columns]:
    return {n: replace(own, ridge=own.ridge * 0.5 ** halved.double()) for n, own in columns.items()}
