"""The second moment of a weight's inputs, and the metric that whitens keys with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.algebra.system import RESIDUAL_LIMIT, listed
from lifelong_edit.errors import RequestError, SolveError

CONDITION_LIMIT = 1e12  # beyond it a whitened key keeps fewer than four of float64's sixteen digits
CONDITION_GOAL = 1e8  # what a suggested shrinkage brings the condition down to
SYMMETRY_LIMIT = 1e-9
ITERATIONS = 40


@dataclass(frozen=True)
class SecondMoment:
    """C = mean of k k' [d, d] float64 over `count` tokens of generic text; uncentred."""

    matrix: Tensor
    count: int


class RunningSecondMoment:
    """The sum of k k' so far, where the inputs lie. `total` [d, d] float64, `count` and `bound` resume it.

    A key k of more mass |k|^2 than `bound` is counted as if it had that much; None counts every key as it is.
    """

    def __init__(self, d: int, total: Tensor | None = None, count: int = 0, bound: float | None = None) -> None:
        state = torch.zeros(d, d, dtype=torch.float64) if total is None else total
        if state.shape != (d, d):
            raise SolveError(f"a second moment of width {d} cannot resume from a sum of shape {list(state.shape)}.")
        self.total = state.double().clone()
        self.count = count
        self.bound = bound

    def add(self, inputs: Tensor) -> None:
        """Count the rows of `inputs` [n, d], of any dtype and on any device, to which the sum goes with the first."""
        rows = inputs.detach().double()  # [n, d]
        if not rows.isfinite().all():
            raise SolveError(
                "the inputs of the weight hold NaN or infinity, so their second moment is meaningless. "
                "Run the model in float32, or find the text that overflows."
            )
        if self.bound is not None:
            masses = rows.square().sum(dim=1, keepdim=True)  # [n, 1]
            rows = torch.where(masses > self.bound, rows * (self.bound / masses).sqrt(), rows)
        self.total = self.total.to(rows.device)
        self.total += rows.T @ rows
        self.count += len(rows)

    def value(self) -> SecondMoment:
        """The mean over all rows so far."""
        if self.count == 0:
            raise SolveError("the second moment of no tokens is undefined. Give it some text.")
        return SecondMoment(self.total / self.count, self.count)


@dataclass(frozen=True)
class Metric:
    """C_s [d, d], factored once: the inner product k' C_s^-1 k in which every edit of a layer is smallest.

    `condition` estimates cond(C_s). `mean_key_mass` = tr(C_s^-1 C) is the mean of k' C_s^-1 k over the tokens the
    moment was taken from (d without shrinkage). It calibrates relative ridges: of a lone average key with
    ridge = f * mean_key_mass, an edit writes the share 1 / (1 + f).
    """

    matrix: Tensor  # C_s             [d, d]
    factor: Tensor  # lower Cholesky  [d, d]
    condition: float
    mean_key_mass: float

    @classmethod
    def from_moment(cls, moment: SecondMoment, shrinkage: float) -> Metric:
        """C_s = (1 - s) C + s tr(C)/d I, float64; `SolveError` when it is not safely positive definite."""
        moment_matrix = _checked(moment, shrinkage)
        mean_eigenvalue = moment_matrix.trace().item() / len(moment_matrix)
        matrix = (1 - shrinkage) * moment_matrix
        matrix.diagonal().add_(shrinkage * mean_eigenvalue)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        largest = _largest_eigenvalue(lambda v: matrix @ v, matrix)
        inverse_smallest = (
            math.inf if failed else _largest_eigenvalue(lambda v: torch.cholesky_solve(v, factor), matrix)
        )
        condition = largest * inverse_smallest
        if not condition <= CONDITION_LIMIT:
            advised = min(1.0, max(10 * shrinkage, 1.1 * largest / mean_eigenvalue / CONDITION_GOAL))
            raise SolveError(
                f"the second moment [{len(matrix)}, {len(matrix)}] of {moment.count} tokens is too ill-conditioned to "
                f"whiten with: condition about {condition:.1e} at shrinkage {shrinkage:g}, the limit is "
                f"{CONDITION_LIMIT:.0e}. Take it from more text, or try shrinkage {advised:.2g}."
            )
        mean_key_mass = torch.cholesky_solve(moment_matrix, factor).trace().item()  # tr(C_s^-1 C)
        return cls(matrix, factor, condition, mean_key_mass)

    def whiten(self, keys: Tensor, names: Sequence[str] = ()) -> Tensor:
        """Q = C_s^-1 K [d, n] float64 for keys K [d, n]; every column is put back through C_s as a check.

        `names` are what an error calls the columns; without them it gives their numbers.
        """
        keys = keys.to(self.factor.device).double()
        whitened = torch.cholesky_solve(keys, self.factor)  # [d, n]
        errors = (self.matrix @ whitened - keys).norm(dim=0)  # [n]
        wrong = ~(errors <= RESIDUAL_LIMIT * keys.norm(dim=0))
        if wrong.any():
            called = names or [f"column {i}" for i in range(len(wrong))]
            raise SolveError(
                f"the keys of {listed(called, wrong)} are not finite, or whitening leaves "
                f"them with a relative residual above {RESIDUAL_LIMIT:g} (condition {self.condition:.1e}). "
                "Check the model's activations, or raise the shrinkage of the second moment."
            )
        return whitened


def _checked(moment: SecondMoment, shrinkage: float) -> Tensor:
    """The matrix of a usable moment, float64."""
    matrix = moment.matrix.double()
    if not 0 <= shrinkage <= 1:
        raise RequestError(f"the shrinkage of a second moment lies between 0 and 1, not at {shrinkage}.")
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise SolveError(f"a second moment is a square matrix, not {list(matrix.shape)}. Collect the statistics again.")
    if not matrix.isfinite().all():
        raise SolveError("the second moment holds NaN or infinity. Collect the statistics again, in float32.")
    if not (matrix - matrix.T).abs().max() <= SYMMETRY_LIMIT * matrix.abs().max():
        raise SolveError("the second moment is not symmetric, so it is none. Collect the statistics again.")
    if not matrix.trace() > 0:
        raise SolveError("the second moment is empty: its trace is not positive. Take it from some text.")
    return matrix


def _largest_eigenvalue(apply: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """Power iteration from one fixed start: approaches the largest |eigenvalue| of `apply` from below."""
    start = torch.randn(len(like), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector, size = start.to(like.device), math.nan
    for _ in range(ITERATIONS):
        vector = apply(vector / vector.norm())  # [d, 1]
        size = vector.norm().item()
    return size
