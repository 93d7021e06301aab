"""Whether what several processes saw of one ledger fits together.

Every process tells when it asked for a commit and when it heard that it was done, on one clock for all. A commit
that was asked for but never confirmed may be there or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """`kind` is ``invoke`` or ``ok``; `time` in nanoseconds."""

    kind: str
    id: str
    time: int


def events(reports: Iterable[Sequence[str]]) -> list[Event]:
    """The events among what a driver reported."""
    return [Event(words[0], words[1], int(words[2])) for words in reports if words[0] in ("invoke", "ok")]


def violations(history: Iterable[Event], committed: Sequence[str]) -> list[str]:
    """What is wrong with a ledger that holds these ids, in its order; nothing if one process could have made it.

    Every confirmed id is there, every id was asked for, each once, and where one was confirmed before another was
    asked for, it stands before it.
    """
    asked, confirmed = _first("invoke", history := list(history)), _first("ok", history)
    places = {id: place for place, id in enumerate(committed)}
    wrong = [f"{id} was confirmed and is lost" for id in sorted(confirmed.keys() - places.keys())]
    wrong += [f"{id} was never asked for" for id in sorted(places.keys() - asked.keys())]
    wrong += [f"{id} is there {times} times" for id, times in Counter(committed).items() if times > 1]
    latest = 0  # when the last asked for of the ids up to here was asked for
    for id in committed:
        if confirmed.get(id, latest) < latest:
            wrong.append(f"{id} was confirmed before one was asked for that stands before it")
        latest = max(latest, asked.get(id, 0))
    return wrong


def _first(kind: str, history: Iterable[Event]) -> dict[str, int]:
    """The time of each id's first event of this kind."""
    times: dict[str, int] = {}
    for event in history:
        if event.kind == kind:
            times[event.id] = min(event.time, times.get(event.id, event.time))
    return times
