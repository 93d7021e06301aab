"""The methods: each file of this folder holds one as `METHOD`, with the source of every default.

The closed-form methods are parameter choices of one solver: a ridge, and the metric in which a change is smallest.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lifelong_edit.algebra.second_moment import Metric, SecondMoment
from lifelong_edit.errors import RequestError

SECOND_MOMENT = "second moment"
LEAST, MOST = 1e-6, 1e6  # a ridge in mean key masses: beyond them a fact counts as held exactly, or as not written


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """What distinguishes one closed-form method from another; all edit stores of the kind `kernel`.

    `relative_ridge` is in units of the store's calibration, the mean of k' C^-1 k over generic tokens. `max_batch`
    bounds the facts of one batch; None means any number. `metric` makes the metric of a layer from the second moment of
    its inputs and the shrinkage; a store is pinned to the one that `metric_name` names, since solutions in different
    metrics do not add up.
    """

    name: str
    relative_ridge: float
    max_batch: int | None = None
    metric_name: str = SECOND_MOMENT
    metric: Callable[[SecondMoment, float], Metric] = Metric.from_moment
    kind: str = "kernel"

    def check_batch(self, count: int) -> None:
        """Raise `RequestError` for a batch of more facts than the method edits at a time."""
        if self.max_batch is not None and count > self.max_batch:
            raise RequestError(
                f"{self.name} edits {self.max_batch} fact at a time, this batch has {count}. "
                "Apply them one by one, or use emmet, which is the same for a batch."
            )

    def ridges(self, calibration: Mapping[str, float], override: float | None = None) -> dict[str, float]:
        """The absolute ridge of each calibrated layer: the method's own, or `override` for all of them."""
        ridges = {n: self.relative_ridge * mass if override is None else override for n, mass in calibration.items()}
        for n, mass in calibration.items():
            check_ridge(ridges[n], mass)
        return ridges


def check_ridge(ridge: float, mass: float = 1.0) -> None:
    """Raise `RequestError` for a ridge out of range, where the mean key mass is `mass`.

    One system holds the ridges of all facts: `LEAST` and `MOST` bound what these alone do to its condition number.
    """
    if ridge != 0 and not LEAST * mass <= ridge <= MOST * mass:
        raise RequestError(
            f"A ridge is 0, or {LEAST:g} to {MOST:g} times the mean key mass, that is {LEAST * mass:.3g} to "
            f"{MOST * mass:.3g}, not {ridge:g}."
        )


def methods() -> dict[str, ClosedForm]:
    """Every method by name, found by looking through this folder."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {module.METHOD.name: module.METHOD for module in modules if hasattr(module, "METHOD")}


def method_named(name: str, ridge: float | None = None) -> ClosedForm:
    """The method, with this relative ridge if it has one at all; `RequestError` names the known methods."""
    known = methods()
    if name not in known:
        raise RequestError(f"There is no method {name!r}. Choose one of {', '.join(sorted(known))}.")
    found = known[name]
    return found if ridge is None or not found.relative_ridge else replace(found, relative_ridge=ridge)


def metric_named(name: str) -> Callable[[SecondMoment, float], Metric]:
    """What makes the metric of this name; `RequestError` when no method has it."""
    for method in methods().values():
        if method.metric_name == name:
            return method.metric
    raise RequestError(f"No method here measures changes by {name!r}. Install the method that this store was made for.")
