"""The facts of a batch as columns of matrices, and a weight delta as a pair of thin factors. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.errors import SolveError

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
