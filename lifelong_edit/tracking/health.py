"""Health: limits on what a stream may cost, how far along each is, and how many edits are left at the present rate.

A vital sign is a number that is 0 for the unedited model and grows as it suffers. What a sign means is its owner's
affair (`SIGNS` says it); here it only has an amber and a red limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum

from lifelong_edit.errors import RequestError

RATE_WINDOW = 5  # readings the present rate is taken from


class Band(IntEnum):
    """The colour of a vital sign, ordered from well to ill."""

    green = 0
    amber = 1
    red = 2


@dataclass(frozen=True, slots=True)
class Limit:
    """The values of a sign from which it is amber (look) and red (stop)."""

    amber: float
    red: float

    def __post_init__(self) -> None:
        if not 0 < self.amber <= self.red < float("inf"):
            raise RequestError(f"A limit needs 0 < amber <= red, not amber={self.amber}, red={self.red}.")

    def band(self, value: float) -> Band:
        """The band of a value; NaN is red."""
        if not value < self.red:
            return Band.red
        return Band.amber if value >= self.amber else Band.green


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """The limit of every vital sign; `SIGNS` says what each sign is.

    The defaults are for knowledge that goes before anything else does: on small models untouched facts are lost long
    before perplexity moves.
    """

    recall: Limit = Limit(0.05, 0.12)
    perplexity: Limit = Limit(0.05, 0.15)
    forgetting: Limit = Limit(0.05, 0.20)
    kl: Limit = Limit(0.15, 0.35)
    preservation: Limit = Limit(0.30, 0.60)
    capacity: Limit = Limit(0.60, 0.80)
    norm: Limit = Limit(5.0, 10.0)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, float]]) -> HealthLimits:
        """The limits that `to_dict` wrote; an unknown sign is a `RequestError`."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise RequestError(f"There is no vital sign {unknown[0]!r}. There are {', '.join(sorted(known))}.")
        return cls(**{name: Limit(**limit) for name, limit in values.items()})

    def widened(self, noise: Mapping[str, float], factor: float = 3.0) -> HealthLimits:
        """Raise each limit to at least `factor` times the noise that was measured for its sign."""
        return HealthLimits(
            **{
                field.name: Limit(max(limit.amber, floor), max(limit.red, 2 * floor))
                for field in fields(self)
                for limit in [getattr(self, field.name)]
                for floor in [factor * noise.get(field.name, 0.0)]
            }
        )


SIGNS = {
    "recall": "share of the watched facts that the base said and the model says no longer",
    "perplexity": "growth of the perplexity of the watched texts over the base's, as a share of it",
    "forgetting": "share of the measured active facts that were said right after their edit and are no longer",
    "kl": "mean divergence, in nats, of the token after the watched prompts from the base's",
    "preservation": "mean square of what the change adds to an edited weight's outputs over generic text, as a share",
    "capacity": "share of the directions an edited weight has that the facts take up",
    "norm": "length of an edited weight's change over that of the weight",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """The vital signs as they were measured when `facts` facts were active."""

    facts: int
    signs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sign:
    """A vital sign now: its newest value, its band, and how many more edits turn it red at the present rate.

    `edits_left` is None where the sign does not grow or was read only once.
    """

    name: str
    value: float
    limit: Limit
    band: Band
    edits_left: int | None


@dataclass(frozen=True, slots=True)
class Health:
    """All vital signs, each by the newest reading that has it, the worst first."""

    signs: tuple[Sign, ...]

    @property
    def band(self) -> Band:
        """The worst band of all signs; green without any."""
        return max((sign.band for sign in self.signs), default=Band.green)

    @property
    def edits_left(self) -> int | None:
        """The fewest edits that any sign leaves; None when none grows."""
        return min((sign.edits_left for sign in self.signs if sign.edits_left is not None), default=None)


def judge(readings: Sequence[Reading], limits: HealthLimits) -> Health:
    """Judge readings, oldest first, against the limits."""
    signs = []
    for field in fields(limits):
        limit = getattr(limits, field.name)
        own = [(reading.facts, reading.signs[field.name]) for reading in readings if field.name in reading.signs]
        if own:
            value = own[-1][1]
            signs.append(Sign(field.name, value, limit, limit.band(value), _edits_left(own[-RATE_WINDOW:], limit.red)))
    return Health(tuple(sorted(signs, key=lambda sign: (-sign.band, -sign.value / sign.limit.red))))


def _edits_left(own: Sequence[tuple[int, float]], red: float) -> int | None:
    """Extrapolate a sign to its red limit: (red - newest value) / growth per fact over the last readings."""
    (first, before), (last, value) = own[0], own[-1]
    if last <= first or not value > before:
        return None
    left = (red - value) * (last - first) / (value - before)
    return max(0, int(left)) if math.isfinite(left) else None
