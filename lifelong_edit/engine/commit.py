"""What a change to a store comes back as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lifelong_edit.store import Entry, FactLife


@dataclass(frozen=True)
class Commit:
    """What a change did. `entry` is None when every request was known already; `skipped` holds their ids.

    `survived` is, to each edited weight, the share of its delta that the cast to the live dtype kept.
    """

    entry: Entry | None
    facts: tuple[FactLife, ...]
    skipped: tuple[str, ...]
    survived: Mapping[str, float]
