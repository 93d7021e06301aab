"""Looking at what is kept without writing it down: scores on the base and now, and what a refit would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from lifelong_edit.engine.change.commit import Commit, described
from lifelong_edit.engine.change.refit import HALVINGS, relaxed, repaired, weighed
from lifelong_edit.engine.measure.noise import noise_of
from lifelong_edit.engine.measure.scores import EFFICACY, Scope
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.figures import Figure
from lifelong_edit.tracking.scores import measure

if TYPE_CHECKING:
    from lifelong_edit.engine.reader import Reader

ALL = "all asked"


@dataclass(frozen=True, slots=True)
class Scored:
    """The mean of a metric over some facts, on the base and now; None where none of them has what it needs."""

    metric: str
    group: str
    facts: int
    base: float | None
    now: float | None


def evaluate(reader: Reader, metrics: Sequence[str] = (EFFICACY,), scope: Scope | None = None) -> list[Scored]:
    """Scores of the active facts in `scope`: those of the newest edit, the oldest, a sample, those at risk, and all.

    Nothing is written. Raises `RequestError` for a metric that is not known.
    """
    scope, facts = scope or Scope(), reader.facts()
    active = [fact for fact in facts.values() if fact.status == "active"]
    risks, seed = reader.risks(), reader.settings.seed
    nobody = Scope(newest=True, oldest=0, sample=0, flagged=0)
    parts = {
        "newest": nobody if scope.newest else None,
        "oldest": replace(nobody, newest=False, oldest=scope.oldest) if scope.oldest else None,
        "sample": replace(nobody, newest=False, sample=scope.sample) if scope.sample else None,
        "at risk": replace(nobody, newest=False, flagged=scope.flagged) if scope.flagged else None,
        ALL: scope,
    }
    groups = {name: [f.id for f in part.of(active, seed, risks)] for name, part in parts.items() if part}
    asked = groups[ALL]
    requests = [facts[id].request for id in asked]
    base = measure(reader.at(0).editable, requests, metrics)
    now = measure(reader.editable, requests, metrics)
    return [
        Scored(metric, name, len(ids), _mean(base[metric], asked, ids), _mean(now[metric], asked, ids))
        for metric in now
        for name, ids in groups.items()
    ]


def preview_calibrate(reader: Reader, harmless: Sequence[EditRequest]) -> dict[str, float]:
    """The noise of every sign that `calibrate` would enter; neither store nor model is changed."""
    return noise_of(reader._session, harmless)


def preview_relax(reader: Reader, halvings: int = HALVINGS) -> Commit:
    """What `relax` would do, with its `effect`; neither store nor model is changed."""
    session = reader._session
    session.at_head()
    change = relaxed(session, {}, halvings)
    if change is None:
        return Commit(None)
    change, effect = weighed(session, change)
    return replace(described(change), effect=effect)


def preview_repair(reader: Reader) -> Commit:
    """What `repair` would do, with its `effect`; neither store nor model is changed."""
    session = reader._session
    session.at_head()
    change, effect = repaired(session, {})
    return replace(described(change), effect=effect)


def _mean(figure: Figure, asked: Sequence[str], ids: Sequence[str]) -> float | None:
    """The mean over the facts `ids` of those `asked`; a figure that is no mean over facts has only that of all."""
    if not figure.each:
        return figure.value if len(ids) == len(asked) else None
    each = dict(zip(asked, figure.each, strict=True))
    values = [value for id in ids if (value := each[id]) is not None]
    return fmean(values) if values else None
