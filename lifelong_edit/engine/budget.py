"""The health budget: what a stream may cost, read on the weights an edit would lead to before it is committed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from lifelong_edit.engine.change import Change
from lifelong_edit.engine.measuring import EFFICACY, Scope, measurements, scored, scores_body
from lifelong_edit.engine.session import Session
from lifelong_edit.errors import HealthStop, RequestError
from lifelong_edit.store import EDITS, Entry
from lifelong_edit.tracking.health import SIGNS, Band, Health, HealthLimits, Reading, judge
from lifelong_edit.tracking.watch import Watched


class OnRed(str, Enum):
    """What to do when an edit would be over a red limit: commit and warn, refuse it, or try it in halves."""

    warn = "warn"
    stop = "stop"
    halve = "halve"


@dataclass(frozen=True)
class Budget:
    """When to read the vital signs (every `every` edits), on which facts, against which limits, and what to do then.

    Without `limits`, the defaults, widened to what the watched facts can tell.
    """

    every: int = 5
    on_red: OnRed = OnRed.stop
    limits: HealthLimits | None = None
    scope: Scope = field(default_factory=Scope)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RequestError(f"A budget is read every 1 or more edits, not every {self.every}.")
        object.__setattr__(self, "on_red", OnRed(self.on_red))

    def due(self, entries: Iterable[Entry]) -> bool:
        """Whether the next edit is to be read: `every` edits after the last that was."""
        edits = [entry for entry in entries if entry.kind in EDITS]
        since = next((n for n, entry in enumerate(reversed(edits)) if "vital" in entry.body), len(edits))
        return since + 1 >= self.every


def watched(session: Session) -> Watched | None:
    """What the store watches; None when nothing was named at its creation."""
    return Watched.from_dict(session.init["watch"]) if session.init.get("watch") else None


def readings(entries: Iterable[Entry]) -> list[Reading]:
    """The vital signs in the ledger, in time."""
    return [Reading(e.body["vital"]["facts"], e.body["vital"]["signs"]) for e in entries if "vital" in e.body]


def health(session: Session, limits: HealthLimits | None = None) -> Health:
    """How the store fares by its newest readings."""
    return judge(readings(session.head.entries), limits or default_limits(watched(session)))


def default_limits(own: Watched | None) -> HealthLimits:
    """The default limits, none closer than the sampling noise of the watched facts."""
    return HealthLimits().widened(own.noise() if own else {})


def check(session: Session, change: Change, budget: Budget) -> dict[str, Any]:
    """What the entry's body is to say of the vital signs after this change; `HealthStop` when it may not be committed.

    The old facts that are asked about on the way go into `scores`, so retention is measured on the same schedule.
    """
    scope = replace(budget.scope, newest=True)
    facts = scope.of(list(change.history.active.values()), session.settings.seed + session.head.last.seq)
    own = watched(session)
    with session.editable.rewritten({n: layer.weight for n, layer in change.layers.items()}):
        figures = scored(session, facts, (EFFICACY,))
        signs = own.signs(session.editable) if own else {}
    learnt = {m.fact for m in measurements(session.head.entries, EFFICACY) if m.seq == m.cohort and m.value == 1.0}
    scores = dict(zip([fact.id for fact in facts], figures[EFFICACY].each, strict=True))
    old = [score for id, score in scores.items() if id in learnt]
    signs["forgetting"] = 1 - sum(score or 0.0 for score in old) / len(old) if old else 0.0
    reading = Reading(len(change.history.active), signs)
    judged = judge([*readings(session.head.entries), reading], budget.limits or default_limits(own))
    if judged.band == Band.red and budget.on_red != OnRed.warn:
        raise HealthStop(f"{_told(judged)} Nothing was committed. Revert edits, or raise the limit.")
    if judged.band != Band.green:
        warnings.warn(_told(judged), stacklevel=5)
    return {**scores_body(facts, figures), "vital": {"facts": reading.facts, "signs": signs}}


def _told(judged: Health) -> str:
    """The worst sign in words."""
    sign = judged.signs[0]
    limit = sign.limit.red if sign.band == Band.red else sign.limit.amber
    left = "" if judged.edits_left is None else f" At the present rate {judged.edits_left} edits are left."
    read = f"{sign.name} is {sign.value:.3f}, the limit {limit:.3f}"
    return f"Health is {judged.band.name}: {read} ({SIGNS[sign.name]}).{left}"
