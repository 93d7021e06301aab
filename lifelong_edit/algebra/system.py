"""The one system behind ROME, MEMIT and EMMET: its columns, its closed form, batches appended, columns taken out.

Notation: a batch t has keys K [d_in, n], whitened keys Q = C^-1 K [d_in, n], base residuals R_0 = V - W_0 K
[d_out, n] and Lambda = diag(ridge). A weight delta is a pair of thin factors Y [d_out, r], Z [d_in, r]: Y Z'. All
batches together are the system X T = R_0 (T: docs/mathematics.md), and the weights are W_0 + X Q'.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

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


SHOWN = 5
RESIDUAL_LIMIT = 1e-6  # largest relative residual of a solve that is trusted
ROUNDING = 1e-12  # of the largest singular value: smaller ones are rounding
ALIGNMENT = 64  # bytes, as torch allocates


@dataclass(frozen=True)
class Columns:
    """The facts of one batch, a column each, float64. `names` are the facts' ids, used in messages only."""

    keys: Tensor  # K               [d_in, n]
    whitened: Tensor  # Q = C^-1 K  [d_in, n]
    base_residuals: Tensor  # R_0   [d_out, n]
    ridge: Tensor  # diag(Lambda)   [n]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.names)
        d_in, d_out = self.keys.shape[0], self.base_residuals.shape[0]
        expected = {"keys": (d_in, n), "whitened": (d_in, n), "base_residuals": (d_out, n), "ridge": (n,)}
        for field, shape in expected.items():
            tensor: Tensor = getattr(self, field)
            if tensor.shape != shape or tensor.dtype != torch.float64:
                raise SolveError(
                    f"{field} of {n} facts must be float64 of shape {list(shape)}, "
                    f"not {tensor.dtype} of shape {list(tensor.shape)}."
                )
            object.__setattr__(self, field, _settled(tensor))
            finite = tensor.isfinite() if tensor.dim() == 1 else tensor.isfinite().all(dim=0)  # [n]
            if not finite.all():
                raise SolveError(
                    f"{field} of {listed(self.names, ~finite)} hold NaN or infinity. "
                    "Leave these facts out, or run the model in float32."
                )
        if (self.ridge < 0).any():
            raise SolveError(f"the ridge of {listed(self.names, self.ridge < 0)} is negative. A ridge is 0 or more.")

    def __len__(self) -> int:
        return len(self.names)

    def take(self, which: Tensor | Sequence[int] | Sequence[bool]) -> Columns:
        """The columns at these positions, or those a boolean mask marks."""
        index = torch.as_tensor(which, device=self.keys.device)
        index = index.nonzero().flatten() if index.dtype == torch.bool else index.long()
        return Columns(
            self.keys[:, index],
            self.whitened[:, index],
            self.base_residuals[:, index],
            self.ridge[index],
            tuple(self.names[i] for i in index.tolist()),
        )

    def nothing(self) -> Pair:
        """The empty pair of the weight these columns belong to."""
        return Pair.empty(self.base_residuals.shape[0], self.keys.shape[0], self.keys.device)

    @classmethod
    def concatenate(cls, batches: Sequence[Columns]) -> Columns:
        """All columns in ledger order; `batches` holds at least one."""
        return cls(
            torch.cat([b.keys for b in batches], dim=1),
            torch.cat([b.whitened for b in batches], dim=1),
            torch.cat([b.base_residuals for b in batches], dim=1),
            torch.cat([b.ridge for b in batches]),
            tuple(name for b in batches for name in b.names),
        )


@dataclass(frozen=True)
class Pair:
    """A weight delta of rank <= r: left Y [d_out, r], right Z [d_in, r]."""

    left: Tensor
    right: Tensor

    def __post_init__(self) -> None:
        if self.left.dim() != 2 or self.right.dim() != 2 or self.left.shape[1] != self.right.shape[1]:
            raise SolveError(f"{list(self.left.shape)} and {list(self.right.shape)} are no pair [d_out, r], [d_in, r].")
        object.__setattr__(self, "left", _settled(self.left))
        object.__setattr__(self, "right", _settled(self.right))

    @property
    def rank(self) -> int:
        """r, the number of columns."""
        return self.left.shape[1]

    def dense(self) -> Tensor:
        """Y Z' [d_out, d_in]."""
        return self.left @ self.right.T

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U [d_out, k], s [k] and V [d_in, k] of Y Z' = U diag(s) V', largest first: the SVD of a small core matrix."""
        (q_left, r_left), (q_right, r_right) = (torch.linalg.qr(side) for side in (self.left, self.right))
        u, s, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        return q_left @ u, s, q_right @ v.T

    def thinned(self) -> Pair:
        """The same delta in no more columns than it has directions above rounding."""
        u, s, v = self.svd()
        kept = s > ROUNDING * s[:1]
        return Pair(u[:, kept] * s[kept], v[:, kept])

    @classmethod
    def empty(cls, d_out: int, d_in: int, device: torch.device | str = "cpu") -> Pair:
        """The delta that changes nothing."""
        zeros = torch.zeros(d_out + d_in, 0, dtype=torch.float64, device=device)
        return cls(zeros[:d_out], zeros[d_out:])

    @classmethod
    def concatenate(cls, pairs: Iterable[Pair]) -> Pair:
        """One pair for the sum of all; `pairs` holds at least one."""
        pairs = tuple(pairs)
        return cls(torch.cat([p.left for p in pairs], dim=1), torch.cat([p.right for p in pairs], dim=1))


def listed(names: Sequence[str], wrong: Tensor) -> str:
    """The names a mask [n] marks, shortened for a message."""
    return shown([names[i] for i in wrong.nonzero().flatten().tolist()])


def shown(chosen: Sequence[str]) -> str:
    """The first few names for a message, and how many more there are."""
    more = f" and {len(chosen) - SHOWN} more" if len(chosen) > SHOWN else ""
    return ", ".join(map(repr, chosen[:SHOWN])) + more


def _settled(tensor: Tensor) -> Tensor:
    """The tensor in one memory layout, so that equal values give equal bits whether fresh or read from a record."""
    if tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


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
    _check_solved(solution @ system - residual, residual)
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
    rows = _inverse_rows(_factored(system), len(every), changed)
    chosen = torch.eye(len(every), dtype=torch.float64, device=system.device)[list(changed)]  # E_J'  [r, n]
    _check_solved(rows @ system - chosen, chosen)
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
    rows = _inverse_rows(factored, len(every), which)  # E_J' M  [r, n]
    _check_amplified(every, which, rows, limit)
    solution = torch.linalg.lu_solve(*factored, every.base_residuals, left=False)  # X  [d_out, n]
    left = -torch.linalg.lu_solve(*_factored(rows[:, gone]), solution[:, gone], left=False)  # -X_J M_JJ^-1  [d_out, r]
    kept = (solution + left @ rows)[:, ~gone]  # R_kept T_kept^-1  [d_out, n - r]
    _check_solved(kept @ system[~gone][:, ~gone] - every.base_residuals[:, ~gone], every.base_residuals)
    return Pair(left, every.whitened @ rows.T)


def _inverse_rows(factored: tuple[Tensor, Tensor], count: int, wanted: Sequence[int]) -> Tensor:
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


def _check_solved(error: Tensor, residual: Tensor) -> None:
    """A solve counts when it reproduces its right-hand side."""
    if not error.norm() <= RESIDUAL_LIMIT * residual.norm():
        raise SolveError(
            f"solving for all facts leaves a relative residual of {(error.norm() / residual.norm()).item():.1e} "
            f"(limit {RESIDUAL_LIMIT:g}). Facts with ridge 0 nearly collide; give them a ridge, or remove one of them."
        )
