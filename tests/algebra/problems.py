"""Random editing problems for the laws of the algebra."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.algebra.system import Columns

D_IN, D_OUT = 14, 9


@dataclass(frozen=True)
class Problem:
    """A base weight, the second moment of its inputs, and batches of facts."""

    weight: Tensor  # W_0  [d_out, d_in]
    moment: Tensor  # C    [d_in, d_in]
    batches: list[Columns]

    @property
    def whole(self) -> Columns:
        return Columns.concatenate(self.batches)

    @property
    def values(self) -> Tensor:
        """V = W_0 K + R_0 [d_out, n] of all facts."""
        return self.weight @ self.whole.keys + self.whole.base_residuals

    def columns(self, keys: Tensor, residuals: Tensor, ridge: Tensor) -> Columns:
        """Columns with this problem's metric, by a route of their own."""
        names = tuple(f"fact-{i}" for i in range(keys.shape[1]))
        return Columns(keys, torch.linalg.solve(self.moment, keys), residuals, ridge, names)


def make_problem(seed: int, sizes: tuple[int, ...] = (3, 2, 4), ridge: float | None = None) -> Problem:
    """Ridge None mixes ridges, zero among them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = normal(6 * D_IN, D_IN)
    moment = tokens.T @ tokens / len(tokens)
    n = sum(sizes)
    keys, residuals = normal(D_IN, n), normal(D_OUT, n)
    mixed = torch.tensor([0.0, 0.1, 1.0, 30.0], dtype=torch.float64)[torch.randint(4, (n,), generator=generator)]
    ridges = mixed if ridge is None else torch.full((n,), ridge, dtype=torch.float64)
    every = Columns(keys, torch.linalg.solve(moment, keys), residuals, ridges, tuple(f"fact-{i}" for i in range(n)))
    batches = [every.take(part.tolist()) for part in torch.arange(n).split(list(sizes))]
    return Problem(normal(D_OUT, D_IN), moment, batches)


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Equal up to `tolerance` relative to the size of the expected matrix."""
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= tolerance * expected.norm()


def brute_force(residual: Tensor, keys: Tensor, moment: Tensor, ridge: Tensor) -> Tensor:
    """Formula (1) by explicit inverses [d_out, d_in]."""
    metric = torch.linalg.inv(moment)
    return residual @ torch.linalg.inv(keys.T @ metric @ keys + ridge.diag()) @ keys.T @ metric
