"""The health budget: what a stream may cost, read on the weights an edit would lead to before it is committed."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine.measure.vital_signs import vital_signs, watched
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import HealthStop
from lifelong_edit.kinds.kind import Change, Head
from lifelong_edit.store import Entry, FactLife
from lifelong_edit.tracking.budget import Budget, OnRed
from lifelong_edit.tracking.health import SIGNS, Band, Health, HealthLimits, Reading, judge
from lifelong_edit.tracking.scores import Figure, measurements, scored, scores_body


def waiting(head: Head) -> set[str]:
    """The ids of requests that were refused with their batch, of which another part was then committed by itself."""
    return {id for entry in head.entries for id in entry.body.get("refused", ())} - head.history.facts.keys()


def due(budget: Budget, head: Head, ids: Collection[str]) -> bool:
    """Whether an edit of these requests is to be read: by the schedule, or because they were refused once."""
    return budget.due(head.entries) or bool(waiting(head).intersection(ids))


def readings(entries: Iterable[Entry]) -> list[Reading]:
    """The vital signs in the ledger, in time."""
    return [Reading(e.body["vital"]["facts"], e.body["vital"]["signs"]) for e in entries if "vital" in e.body]


def health(session: Session, limits: HealthLimits | None = None) -> Health:
    """How the store fares by its newest readings."""
    return judge(readings(session.head.entries), limits or default_limits(session))


def default_limits(session: Session) -> HealthLimits:
    """The default limits, none closer than noise: that of the watched facts' number, and that of harmless edits."""
    own = watched(session)
    noise = dict(own.noise()) if own else {}
    calibrated = [entry.body["noise"] for entry in session.head.entries if "noise" in entry.body]
    for name, value in (calibrated[-1] if calibrated else {}).items():
        noise[name] = max(value, noise.get(name, 0.0))
    return HealthLimits().widened(noise)


def check(session: Session, change: Change, budget: Budget) -> dict[str, Any]:
    """What the entry's body is to say of the vital signs after this change; `HealthStop` when it may not be committed.

    The old facts that are asked about on the way go into `scores`, so retention is measured on the same schedule.
    """
    kind = session.kind
    facts = replace(budget.scope, newest=True).of(
        list(change.history.active.values()),
        session.settings.seed + session.head.last.seq,
        kind.risks(change.history, change.state),
    )
    signs = vital_signs(session, change.state)
    with kind.showing(change.state) as editable:
        figures = scored(editable, facts, budget.metrics)
    signs["forgetting"] = _forgetting(session, facts, figures[EFFICACY])
    reading = Reading(len(change.history.active), signs)
    judged = judge([*readings(session.head.entries), reading], budget.limits or default_limits(session))
    if judged.band == Band.red and budget.on_red != OnRed.warn:
        raise HealthStop(f"{_told(judged)} Nothing was committed. Revert edits, or raise the limit.")
    if judged.band != Band.green:
        warnings.warn(_told(judged), stacklevel=5)
    return {**scores_body(facts, figures), "vital": {"facts": reading.facts, "signs": signs}}


def _forgetting(session: Session, facts: Sequence[FactLife], figure: Figure) -> float:
    """The share of those of the facts that were said right after their edit which are said no longer."""
    learnt = {m.fact for m in measurements(session.head.entries, EFFICACY) if m.seq == m.cohort and m.value == 1.0}
    scores = [score or 0.0 for fact, score in zip(facts, figure.each, strict=True) if fact.id in learnt]
    return 1 - sum(scores) / len(scores) if scores else 0.0


def _told(judged: Health) -> str:
    """The worst sign in words."""
    sign = judged.signs[0]
    limit = sign.limit.red if sign.band == Band.red else sign.limit.amber
    left = "" if judged.edits_left is None else f" At the present rate {judged.edits_left} edits are left."
    read = f"{sign.name} is {sign.value:.3f}, the limit {limit:.3f}"
    return f"Health is {judged.band.name}: {read} ({SIGNS[sign.name]}).{left}"
