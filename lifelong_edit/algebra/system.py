"""All batches as one system X T = R_0, and what changing its columns does to the weights W_0 + X Q'."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lifelong_edit.algebra.columns import RESIDUAL_LIMIT, Columns, Pair, listed
from lifelong_edit.algebra.objective import AMPLIFICATION_LIMIT, Memory
from lifelong_edit.errors import SolveError


def whole_system(batches: Sequence[Columns], memory: Memory) -> Tensor:
    """T [n, n] over the columns of all batches: the Gram (joint) or its upper block triangle (batch), plus Lambda."""
    every = Columns.concatenate(batches)
    gram = every.whitened.T @ every.keys  # G  [n, n]
    if memory == Memory.batch:
        sizes = torch.tensor([len(columns) for columns in batches], device=gram.device)
        batch_of = torch.arange(len(batches), device=gram.device).repeat_interleave(sizes)  # [n]
        gram = gram * (batch_of[:, None] <= batch_of[None, :])
    return gram + every.ridge.diag()


def solve_whole(batches: Sequence[Columns], memory: Memory) -> Tensor:
    """X [d_out, n] with X T = R_0: W(A) = W_0 + X Q'. A route to the weights that does not go batch by batch."""
    system, residual = whole_system(batches, memory), Columns.concatenate(batches).base_residuals
    solution: Tensor = torch.linalg.lu_solve(*_factored(system), residual, left=False)
    _check(solution @ system - residual, residual)
    return solution


def removal(batches: Sequence[Columns], memory: Memory, removed: Collection[int]) -> Pair:
    """W(A without J) - W(A) as a pair of rank |J|; `removed` holds J, positions in ledger order.

    With M = T^-1 and E_J the columns J of the identity, the Schur complement gives
        M - pad(T_kept^-1) = M E_J (E_J' M E_J)^-1 E_J' M,
    so the delta is -X_J (M_JJ)^-1 (Q M' E_J)' with X = R_0 M. M is never formed, only its rows J.
    """
    return _removal(batches, memory, removed, math.inf)


def insertion(
    batches: Sequence[Columns], memory: Memory, added: Collection[int], amplification_limit: float = math.inf
) -> Pair:
    """W(A) - W(A without J) as a pair of rank |J|; `added` holds J, positions among the columns A of `batches`.

    With a limit, each of them is held against it as if it were appended last (see `replacement`).
    """
    pair = _removal(batches, memory, added, amplification_limit)
    return Pair(-pair.left, pair.right)


def replacement(
    batches: Sequence[Columns],
    memory: Memory,
    changed: Sequence[int],
    shift: Tensor,
    amplification_limit: float = AMPLIFICATION_LIMIT,
) -> Pair:
    """What W_0 + X Q' gains when the base residuals of the columns `changed`, J, grow by `shift` [d_out, |J|].

    T stays, so X gains shift (E_J' M) with M = T^-1, and the delta is shift (Q M' E_J)'. Were column j appended last,
    its amplification ||y_j|| sqrt(G_jj) / ||r_j|| would be sqrt(M_jj G_jj): that is what the limit is held against.
    """
    every = Columns.concatenate(batches)
    system = whole_system(batches, memory)
    rows = _rows(_factored(system), len(every), changed)
    chosen = torch.eye(len(every), dtype=torch.float64, device=system.device)[list(changed)]  # E_J'  [r, n]
    _check(rows @ system - chosen, chosen)
    _check_amplified(every, changed, rows, amplification_limit)
    return Pair(shift, every.whitened @ rows.T)


def _removal(batches: Sequence[Columns], memory: Memory, removed: Collection[int], limit: float) -> Pair:
    """`removal`, which holds each column that is taken out against an amplification limit."""
    every = Columns.concatenate(batches)
    gone = torch.zeros(len(every), dtype=torch.bool, device=every.keys.device)
    gone[list(removed)] = True
    if not gone.any():
        return every.nothing()
    system = whole_system(batches, memory)
    factored = _factored(system)
    which = gone.nonzero().flatten().tolist()
    rows = _rows(factored, len(every), which)  # E_J' M  [r, n]
    _check_amplified(every, which, rows, limit)
    solution = torch.linalg.lu_solve(*factored, every.base_residuals, left=False)  # X  [d_out, n]
    left = -torch.linalg.lu_solve(*_factored(rows[:, gone]), solution[:, gone], left=False)  # -X_J M_JJ^-1  [d_out, r]
    kept = (solution + left @ rows)[:, ~gone]  # R_kept T_kept^-1  [d_out, n - r]
    _check(kept @ system[~gone][:, ~gone] - every.base_residuals[:, ~gone], every.base_residuals)
    return Pair(left, every.whitened @ rows.T)


def _rows(factored: tuple[Tensor, Tensor], count: int, wanted: Sequence[int]) -> Tensor:
    """The rows J of M = T^-1, E_J' M  [r, n], for the factors of T [n, n]."""
    identity = torch.eye(count, dtype=torch.float64, device=factored[0].device)
    rows: Tensor = torch.linalg.lu_solve(*factored, identity[list(wanted)], left=False)
    return rows


def _check_amplified(every: Columns, which: Sequence[int], rows: Tensor, limit: float) -> None:
    """Raise `SolveError` naming those of the columns `which` whose sqrt(M_jj G_jj) exceeds the limit."""
    masses = (every.keys * every.whitened).sum(dim=0)[list(which)]  # G_jj  [r]
    amplification = (rows[range(len(which)), list(which)].abs() * masses).sqrt()  # [r]
    wrong = ~(amplification <= limit)
    if wrong.any():
        raise SolveError(
            f"the value of {listed([every.names[j] for j in which], wrong)} is amplified "
            f"{amplification[wrong].max().item():.3g} times (limit {limit:g}): another active fact has nearly the same "
            "key. Revert one of them, or use a ridge."
        )


def _factored(system: Tensor) -> tuple[Tensor, Tensor]:
    """LU and pivots of a square system."""
    factors, pivots, failed = torch.linalg.lu_factor_ex(system)
    if failed or not factors.isfinite().all():
        raise SolveError(
            f"the system of {len(system)} facts is singular at position {max(int(failed) - 1, 0)} in ledger order. "
            "Facts with ridge 0 collide; give them a ridge, or remove one of them."
        )
    return factors, pivots


def _check(error: Tensor, residual: Tensor) -> None:
    """A solve counts when it reproduces its right-hand side."""
    if not error.norm() <= RESIDUAL_LIMIT * residual.norm():
        raise SolveError(
            f"solving for all facts leaves a relative residual of {(error.norm() / residual.norm()).item():.1e} "
            f"(limit {RESIDUAL_LIMIT:g}). Facts with ridge 0 nearly collide; give them a ridge, or remove one of them."
        )
