"""What distinguishes one closed-form method from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lifelong_edit.errors import RequestError


@dataclass(frozen=True, slots=True)
class Method:
    """`relative_ridge` is in units of the store's calibration, the mean of k' C^-1 k over generic tokens.

    `max_batch` bounds the facts of one batch; None means any number.
    """

    name: str
    relative_ridge: float
    max_batch: int | None = None

    def check_batch(self, count: int) -> None:
        """Raise `RequestError` for a batch of more facts than the method edits at a time."""
        if self.max_batch is not None and count > self.max_batch:
            raise RequestError(
                f"{self.name} edits {self.max_batch} fact at a time, this batch has {count}. "
                "Apply them one by one, or use emmet, which is the same for a batch."
            )

    def ridges(self, calibration: Mapping[str, float], override: float | None = None) -> dict[str, float]:
        """The absolute ridge of each calibrated layer: the method's own, or `override` for all of them."""
        if override is not None and not 0 <= override < float("inf"):
            raise RequestError(f"A ridge is a finite number of at least 0, not {override}.")
        return {n: self.relative_ridge * mass if override is None else override for n, mass in calibration.items()}
