"""The one objective behind ROME, MEMIT and EMMET: its closed form, and batches appended one after the other.

Notation: a batch t has keys K [d_in, n], whitened keys Q = C^-1 K [d_in, n], base residuals R_0 = V - W_0 K
[d_out, n] and Lambda = diag(ridge). A weight delta is a pair of thin factors Y [d_out, r], Z [d_in, r]: Y Z'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

import torch
from torch import Tensor

from lifelong_edit.algebra.columns import RESIDUAL_LIMIT, Columns, Pair, listed
from lifelong_edit.errors import SolveError

AMPLIFICATION_LIMIT = 30.0
SINGULAR = 1e-12  # of a key's mass: the part that other keys leave of it, below which rounding decides what it is
TIED = 1e-9  # cosines nearer to each other than this are equal


class Memory(str, Enum):
    """Which part of the whole Gram the system holds: its upper block triangle (`batch`) or all of it (`joint`)."""

    batch = "batch"
    joint = "joint"


def closed_form(residual: Tensor, keys: Tensor, whitened: Tensor, ridge: Tensor) -> Tensor:
    """Delta = R (K'Q + Lambda)^-1 Q' [d_out, d_in] for R [d_out, n], K and Q [d_in, n], ridge [n].

    The minimiser of tr(D C D') + sum_i ||D k_i - r_i||^2 / ridge_i. ridge = lambda is MEMIT with that weight,
    ridge = 0 is EMMET's exact memorisation, ridge = w * lambda_E damped EMMET, one fact with ridge = 0 ROME.
    """
    columns = Columns(keys, whitened, residual, ridge, tuple(f"column {i}" for i in range(keys.shape[1])))
    return append(columns, columns.nothing(), Memory.batch, amplification_limit=float("inf")).dense()


def residuals_now(columns: Columns, earlier: Sequence[Pair]) -> Tensor:
    """R_t = R_0 - Y (Z'K) [d_out, n]: what the facts still lack on the weights after the `earlier` deltas."""
    residuals = columns.base_residuals
    for pair in earlier:
        residuals = residuals - pair.left @ (pair.right.T @ columns.keys)
    return residuals


def base_residuals(residuals: Tensor, keys: Tensor, earlier: Sequence[Pair]) -> Tensor:
    """R_0 = R_t + Y (Z'K) [d_out, n]: freezes residuals measured after the `earlier` deltas; undoes `residuals_now`."""
    for pair in earlier:
        residuals = residuals + pair.left @ (pair.right.T @ keys)
    return residuals


def append(columns: Columns, earlier: Pair, memory: Memory, amplification_limit: float = AMPLIFICATION_LIMIT) -> Pair:
    """The delta of one batch after the deltas before it, `earlier`, concatenated in ledger order.

        R_t = R_0 - Y (Z'K)
        P   = Q  (batch)   or   Q - Z (Z'K)  (joint)
        L L' = K'P + Lambda,   Y_t = R_t L^-T,   Z_t = P L^-T

    `SolveError` names the facts for which the solution is not to be trusted.
    """
    overlap = earlier.right.T @ columns.keys  # Z'K  [r, n]
    residual = columns.base_residuals - earlier.left @ overlap  # R_t  [d_out, n]
    seen = columns.whitened  # P  [d_in, n]
    if memory == Memory.joint:
        seen = seen - earlier.right @ overlap
    factor = _cholesky(columns, columns.keys.T @ seen)  # L  [n, n]
    pair = Pair(
        torch.linalg.solve_triangular(factor.T, residual, upper=True, left=False),  # Y_t  [d_out, n]
        torch.linalg.solve_triangular(factor.T, seen, upper=True, left=False),  # Z_t  [d_in, n]
    )
    _check_residual(columns, residual, factor, pair)
    _check_amplification(columns, residual, pair, amplification_limit)
    return pair


def fold(batches: Sequence[Columns], memory: Memory, amplification_limit: float = AMPLIFICATION_LIMIT) -> list[Pair]:
    """The pairs of all batches, appended one after the other; a batch without columns has an empty pair."""
    pairs: list[Pair] = []
    for columns in batches:
        earlier = Pair.concatenate([columns.nothing(), *pairs])
        pairs.append(append(columns, earlier, memory, amplification_limit))
    return pairs


def materialise(base: Tensor, pairs: Iterable[Pair]) -> Tensor:
    """W_0 plus every delta in ledger order [d_out, d_in], float64. Nothing is ever subtracted."""
    weight = base.double()
    for pair in pairs:
        if pair.rank:  # adding zeros would turn -0.0 into 0.0 and change the digest
            weight = weight + pair.dense()
    return weight


def _cholesky(columns: Columns, gram: Tensor) -> Tensor:
    """L [n, n] with L L' = (gram + gram')/2 + Lambda."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex((gram + gram.T) / 2 + columns.ridge.diag())
    # L_ii^2 is what the keys before it leave of a key. For a key that is a combination of them rounding makes it some
    # 1e-16 of either sign, by which LAPACK would fail here, or at a later column, or not at all.
    singular = factor.diagonal().square() <= SINGULAR * (_key_mass(columns) + columns.ridge)  # [n]
    if failed:
        singular[int(failed) - 1] = True
    if singular.any() or not factor.isfinite().all():
        first = torch.arange(len(columns), device=gram.device) == singular.int().argmax()
        raise _untrustworthy(columns, first, "the system of the batch is singular at {}")
    return factor


def _check_residual(columns: Columns, residual: Tensor, factor: Tensor, pair: Pair) -> None:
    """What the delta leaves of the residual must be X Lambda, where X = Y_t L^-1 solves X (K'P + Lambda) = R_t."""
    solution = torch.linalg.solve_triangular(factor, pair.left, upper=False, left=False)  # X  [d_out, n]
    left_over = residual - pair.left @ (pair.right.T @ columns.keys)  # R_t - Y_t Z_t'K  [d_out, n]
    errors = (left_over - solution * columns.ridge).norm(dim=0)  # [n]
    wrong = ~(errors <= RESIDUAL_LIMIT * residual.norm() / max(len(columns), 1) ** 0.5)
    if wrong.any():
        raise _untrustworthy(columns, wrong, f"the solve leaves a relative residual above {RESIDUAL_LIMIT:g} at {{}}")


def _check_amplification(columns: Columns, residual: Tensor, pair: Pair, limit: float) -> None:
    """||y_i|| sqrt(k_i'q_i) / ||r_i||, which is 1 for a lone fact with ridge 0, stays within the limit.

    ||r_i|| counts at least as the batch's root mean square: y_i also holds what the others leak onto k_i, so a fact the
    weights already hold (r_i near 0) would otherwise be refused with nothing ill-conditioned about it.
    """
    written, asked = pair.left.norm(dim=0), residual.norm(dim=0)  # ||y_i||, ||r_i||  [n]
    amplification = written * _key_mass(columns).sqrt() / asked.clamp(min=asked.square().mean().sqrt())  # [n]
    wrong = ~((amplification <= limit) | (written == 0))
    if wrong.any():
        worst = amplification[wrong].max().item()
        raise _untrustworthy(
            columns,
            wrong,
            f"the edit is amplified {worst:.3g} times (limit {limit:g}) at {{}}",
        )


def _key_mass(columns: Columns) -> Tensor:
    """G_ii = k_i'q_i [n]."""
    return (columns.keys * columns.whitened).sum(dim=0)


def _untrustworthy(columns: Columns, wrong: Tensor, what: str) -> SolveError:
    """The error for the facts a mask [n] marks, with a ridge to try and the key nearest to the first of them."""
    mass = _key_mass(columns)
    ridge = max(0.01 * mass.mean().item(), 10 * columns.ridge.max().item())
    first = int(wrong.nonzero()[0])
    cosines = (columns.keys[:, first] @ columns.whitened) / (mass * mass[first]).sqrt()  # [n]
    cosines[first] = -1.0
    cosines = cosines.nan_to_num(-1.0)
    nearest = int((cosines >= cosines.max() - TIED).int().argmax())  # the first of those that are equally near
    neighbour = (
        f"the closest key of the batch is that of {columns.names[nearest]!r}, "
        f"whitened cosine {cosines[nearest].item():.9f}"
        if nearest != first
        else "it is alone in its batch, so look among the earlier ones"
    )
    return SolveError(
        f"{what.format(listed(columns.names, wrong))}. Try a ridge of about {ridge:.3g}, "
        f"or leave out {columns.names[first]!r}: {neighbour}."
    )
