"""What the stored columns and pairs of a layer say about every fact in it: no forward pass, no model, no store.

Notation of `system`, with the columns and pairs of all batches side by side: keys K, whitened keys Q = C^-1 K, base
residuals R_0, D = W - W_0 = Y Z', and the overlap U = Z'K [n, n]. The system T has the triangular factors

    T = A V,    V upper, A lower:  A = V' (joint)   or   the diagonal blocks of V' (batch),

and appending batch by batch makes Y = R_0 V^-1 and Z = Q A^-T. So U = A^-1 G with G = K'Q, and T^-1 G = V^-1 U. The
diagonal block t of V' is the L of batch t, and above its diagonal blocks V is U.
`risks` reads off it which facts are likely forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.algebra.system import Columns, Memory, Pair
from lifelong_edit.errors import SolveError

COLLISION = 0.99  # whitened cosine from which two keys are reported
SAME = 1e-9  # of the largest size: sizes nearer to each other than this are equal
ITERATIONS = 10  # of a norm's power iteration

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True)
class BaseSize:
    """What D is measured against, computed once a layer: ||W_0||_F, and tr(W_0 C W_0') = mean ||W_0 k||^2 over text."""

    norm: float
    output: float

    @classmethod
    def of(cls, base: Tensor, metric: Metric) -> BaseSize:
        """Of the base weight [d_out, d_in], with the metric's C_s as C."""
        base = base.double()
        return cls(base.norm().item(), ((base @ metric.matrix) * base).sum().item())


@dataclass(frozen=True)
class Collision:
    """The columns at two positions in ledger order belong to different slots and have nearly parallel keys."""

    earlier: int
    later: int
    cosine: float  # k_i' C^-1 k_j / sqrt(k_i' C^-1 k_i k_j' C^-1 k_j): negative for opposite keys


@dataclass(frozen=True)
class Spectrum:
    """The singular values of D, largest first, float64 [min(n, d_out, d_in)], and how many directions it has."""

    values: Tensor

    @property
    def norm(self) -> float:
        """||D||_F."""
        return float(self.values.norm())

    @property
    def entropy(self) -> float:
        """-sum p ln p of p = s^2 / ||D||_F^2, in nats: exp of it counts directions. NaN while D is zero."""
        shares = (self.values / self.values.norm()).square()  # p
        return float(torch.special.entr(shares).sum()) if self.norm else math.nan

    @property
    def stable_rank(self) -> float:
        """||D||_F^2 / ||D||_2^2. NaN while D is zero."""
        return float((self.values / self.values[0]).square().sum()) if self.norm else math.nan


@dataclass(frozen=True)
class Telemetry:
    """One edited layer at one commit, float64: n columns in ledger order, in batches of `sizes`.

    Figures relative to r_0i = v_i - W_0 k_i are NaN for a column whose r_0i is zero (a protected fact); `missing` is
    not. Row t of `moved` and `written` is batch t: the own row of a column is what its batch wrote, later rows are what
    was done to it afterwards, earlier ones what its key was given before.
    """

    sizes: tuple[int, ...]
    missing: Tensor  # ||v_i - W k_i||                         [n]
    residual: Tensor  # ||v_i - W k_i|| / ||r_0i||             [n]
    leverage: Tensor  # (T^-1 G)_ii: the part of r_0i that W holds; between 0 and 1 in joint memory  [n]
    capacity: float  # sum of leverages / d_in
    moved: Tensor  # ||Y_t Z_t' k_j|| / ||r_0j||               [batches, n]
    written: Tensor  # <Y_t Z_t' k_j, r_0j> / ||r_0j||^2: negative where batch t takes away  [batches, n]
    preservation: float  # tr(D C D') / tr(W_0 C W_0')
    relative_norm: float  # ||D||_F / ||W_0||_F
    spectrum: Spectrum
    condition: float  # of T, an estimate from below; NaN without columns
    newest_condition: float  # of the last batch's own system L L'; NaN when it is empty
    collisions: tuple[Collision, ...]  # of the last batch's columns, with any

    @property
    def interference(self) -> Tensor:
        """At [t, s] the mean of row t of `moved` over the columns of batch s, NaN without any [batches, batches]."""
        parts = torch.split(self.moved, list(self.sizes), dim=1)
        return torch.stack([part.nanmean(dim=1) for part in parts], dim=1)


def telemetry(
    batches: Sequence[Columns],
    pairs: Sequence[Pair],
    memory: Memory,
    slots: Sequence[str],
    base: BaseSize,
    limit: float = COLLISION,
) -> Telemetry:
    """All figures of a layer that holds `batches`, at least one, by `pairs`; `slots` names the slot of each column.

    It holds for the keys as recorded. `SolveError` when pairs and batches differ, or a batch's system is singular.
    """
    sizes = [len(columns) for columns in batches]
    if [pair.rank for pair in pairs] != sizes or len(slots) != sum(sizes):
        raise SolveError(f"batches of {sizes} columns need pairs of these ranks and one slot a column.")
    every, delta = Columns.concatenate(batches), Pair.concatenate(pairs)
    overlap = delta.right.T @ every.keys  # U  [n, n]
    lower, upper = _triangles(batches, overlap, memory)  # A, V  [n, n]
    written = delta.left @ overlap  # D K  [d_out, n]
    solution = torch.linalg.solve_triangular(lower, delta.left, upper=False, left=False)  # X = Y A^-1  [d_out, n]
    leverage = torch.linalg.solve_triangular(upper, overlap, upper=True).diagonal().clone()  # diag(V^-1 U)  [n]
    asked, missing = _lengths(every.base_residuals), _lengths(every.base_residuals - written)  # [n]
    asked = asked.where(asked > 0, math.nan)
    lengths, along = _effects(every.base_residuals, delta, overlap, sizes)  # [batches, n]
    spectrum, newest = Spectrum(singular_values(delta)), sum(sizes[:-1])
    return Telemetry(
        sizes=tuple(sizes),
        missing=missing,
        residual=missing / asked,
        leverage=leverage,
        capacity=leverage.sum().item() / len(every.keys),
        moved=lengths / asked,
        written=along / asked.square(),
        preservation=(written * solution).sum().item() / base.output,  # D C D' = X Q'C Q X' = (D K) X', as C Q = K
        relative_norm=spectrum.norm / base.norm,
        spectrum=spectrum,
        condition=_condition(lower, upper) if len(upper) else math.nan,
        newest_condition=torch.linalg.cond(upper[newest:, newest:]).square().item() if sizes[-1] else math.nan,
        collisions=collisions(every, slots, limit, newest),
    )


def residual_parts(batches: Sequence[Columns], pairs: Sequence[Pair], position: int) -> Tensor:
    """Who left what of the residual v_j - W k_j of the column at `position`: a vector a batch [d_out, batches].

    Its own batch left what was missing right after it, each later batch t -Y_t Z_t' k_j, earlier ones nothing. The sum
    of all is the residual.
    """
    every, own = Columns.concatenate(batches), _batch_of(batches)[position]
    key, asked = every.keys[:, position], every.base_residuals[:, position]
    moved = torch.stack([pair.left @ (pair.right.T @ key) for pair in pairs], dim=1)  # [d_out, batches]
    parts = -moved
    parts[:, own] = asked - moved[:, : own + 1].sum(dim=1)
    parts[:, :own] = 0.0
    return parts


def largest_first(sizes: Mapping[Item, float]) -> list[Item]:
    """The items by falling size. Those whose sizes differ by no more than rounding stay in the order they are given."""
    unit = SAME * max(map(abs, sizes.values()), default=0.0) or 1.0
    return sorted(sizes, key=lambda item: -round(sizes[item] / unit))


def collisions(
    columns: Columns, slots: Sequence[str], limit: float = COLLISION, start: int = 0
) -> tuple[Collision, ...]:
    """Pairs of columns of different slots with |whitened cosine| above `limit`, the later one at `start` or after.

    One product K'Q. Ordered by the later column, then by the earlier.
    """
    scale = (columns.keys * columns.whitened).sum(dim=0).sqrt()  # sqrt(G_ii)  [n]
    cosines = (columns.keys[:, start:].T @ columns.whitened) / (scale[start:, None] * scale)  # [n - start, n]
    near = (cosines.abs() > limit).tril(start - 1).nonzero().tolist()
    found = [(i, start + row, cosines[row, i].item()) for row, i in near]
    return tuple(Collision(i, j, cosine) for i, j, cosine in found if slots[i] != slots[j])


def singular_values(pair: Pair) -> Tensor:
    """The singular values of Y Z', largest first [min(rank, d_out, d_in)].

    They are those of R_Y R_Z', the factors of thin QRs, or of the R of Z Y' when the rank reaches one of its sides.
    """
    thin = pair.rank < min(len(pair.left), len(pair.right))
    core = _triangle(pair.left) @ _triangle(pair.right).T if thin else _triangle(pair.right @ pair.left.T)
    values: Tensor = torch.linalg.svdvals(core)
    return values


def _triangles(batches: Sequence[Columns], overlap: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """A and V [n, n] of T = A V. Above its diagonal blocks V is U; those are made as `append` made them."""
    batch_of = torch.tensor(_batch_of(batches), device=overlap.device)  # [n]
    upper = overlap * (batch_of[:, None] < batch_of)
    lower, start = torch.zeros_like(upper), 0
    for columns in batches:
        own = slice(start, start + len(columns))
        gram = columns.keys.T @ columns.whitened  # [n_t, n_t]
        if memory == Memory.joint:
            above = upper[:start, own]  # Z'K_t of the batches before  [start, n_t]
            gram = gram - above.T @ above
        factor, failed = torch.linalg.cholesky_ex((gram + gram.T) / 2 + columns.ridge.diag())
        if failed:
            fact = columns.names[int(failed) - 1]
            raise SolveError(f"the system of the batch is singular at {fact!r}. Revert it, and give it a ridge.")
        upper[own, own], lower[own, own] = factor.T, factor
        start += len(columns)
    return (upper.T if memory == Memory.joint else lower), upper


def _batch_of(batches: Sequence[Columns]) -> list[int]:
    """The number of the batch of every column."""
    return [number for number, columns in enumerate(batches) for _ in range(len(columns))]


def _effects(asked: Tensor, delta: Pair, overlap: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """||Y_t U_tj|| and <Y_t U_tj, r_0j>, both [batches, n], for R_0 [d_out, n]; R of Y_t = Q_t R gives the lengths."""
    products = (delta.left.T @ asked) * overlap  # <y_r, r_0j> U_rj  [n, n]
    factors = zip(torch.split(delta.left, sizes, dim=1), torch.split(overlap, sizes), strict=True)
    lengths = [_lengths(_triangle(left) @ rows) for left, rows in factors]
    return torch.stack(lengths), torch.stack([rows.sum(dim=0) for rows in torch.split(products, sizes)])


def _lengths(matrix: Tensor) -> Tensor:
    """||column|| of each column; norm(dim=0) is many times slower."""
    return matrix.square().sum(dim=0).sqrt()


def _triangle(matrix: Tensor) -> Tensor:
    """R of the thin QR of a matrix [m, r]: [min(m, r), r]."""
    triangle: Tensor = torch.linalg.qr(matrix, mode="r").R
    return triangle


def _condition(lower: Tensor, upper: Tensor) -> float:
    """||T||_2 ||T^-1||_2 of T = A V, by power iteration on T'T and on its inverse V^-1 A^-1 A'^-1 V'^-1."""

    def solved(vector: Tensor) -> Tensor:
        for triangle, above in ((upper.T, False), (lower.T, True), (lower, False), (upper, True)):
            vector = torch.linalg.solve_triangular(triangle, vector, upper=above)
        return vector

    return _norm(lambda v: upper.T @ (lower.T @ (lower @ (upper @ v))), upper) * _norm(solved, upper)


def _norm(apply: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """sqrt of the largest eigenvalue of a symmetric `apply`, from below: power iteration from one fixed start."""
    vector = torch.randn(len(like), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like.device)
    for _ in range(ITERATIONS):
        vector = apply(vector / vector.norm())
    return float(vector.norm().sqrt())


NEEDED = 0.6  # of what the weights held of a fact right after its batch; what is left below it is missed
ACROSS = 0.2  # what was written across the wanted change counts, where what is missing along it counts 1


def risks(read: Telemetry) -> Tensor:
    """NEEDED h_own - h + ACROSS x for each fact [n]: above 0 it is at risk of being forgotten.

    h = <D k, r_0> / |r_0|^2 is the share of the wanted change that W holds, h_own the same right after the fact's own
    batch, and x = |D k - h r_0| / |r_0| what others wrote across it. How much of the change a fact needs to be said
    differs from fact to fact; what it was written with says most of it. NaN where nothing was to change. How this ranks
    true forgetting, beside the residual alone, is in docs/telemetry.md.
    """
    sizes = torch.tensor(read.sizes, device=read.written.device)
    batch = torch.arange(len(sizes), device=sizes.device)
    earlier = batch[:, None] <= batch.repeat_interleave(sizes)  # written by the own batch or before it  [batches, n]
    held, own = read.written.sum(dim=0), read.written.where(earlier, 0.0).sum(dim=0)
    across = (read.residual.square() - (1 - held).square()).clamp_min(0.0).sqrt()  # r_0 - D k = (1 - h) r_0 - across
    return NEEDED * own - held + ACROSS * across
