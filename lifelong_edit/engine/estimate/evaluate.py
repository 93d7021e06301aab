"""Scores of the active facts on the base and now, group by group; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine.measure.vital_signs import watched
from lifelong_edit.engine.state.session import Session
from lifelong_edit.tracking.budget import Scope
from lifelong_edit.tracking.honest import HonestScores, answered, honest_scores, sheets_of
from lifelong_edit.tracking.scores import Figure, measure

ALL = "all asked"


@dataclass(frozen=True, slots=True)
class Scored:
    """The mean of a metric over some facts, on the base and now; None where none of them has what it needs."""

    metric: str
    group: str
    facts: int
    base: float | None
    now: float | None


def evaluate(session: Session, metrics: Sequence[str] = (EFFICACY,), scope: Scope | None = None) -> list[Scored]:
    """Scores of the active facts in `scope`: those of the newest edit, the oldest, a sample, those at risk, and all.

    Nothing is written. Raises `RequestError` for a metric that is not known.
    """
    scope, kind, head = scope or Scope(), session.kind, session.head
    active = list(head.history.active.values())
    risks, seed = kind.risks(head.history, session.state), session.settings.seed
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
    requests = [head.history.facts[id].request for id in asked]
    with kind.showing(kind.base) as editable:
        base = measure(editable, requests, metrics)
    with kind.showing(session.state) as editable:
        now = measure(editable, requests, metrics)
    return [
        Scored(metric, name, len(ids), _mean(base[metric], asked, ids), _mean(now[metric], asked, ids))
        for metric in now
        for name, ids in groups.items()
    ]


def honest(session: Session, scope: Scope | None = None, distract: str | None = None) -> HonestScores:
    """Honest scores of the active facts in `scope`: by the base, by the base told of the fact, and by the model now.

    `distract` is the text that distractions are cut out of, by default the store's own prefixes. Nothing is written.
    """
    kind, head, own = session.kind, session.head, watched(session)
    active, risks = list(head.history.active.values()), kind.risks(head.history, session.state)
    requests = {f.id: f.request for f in (scope or Scope()).of(active, session.settings.seed, risks)}
    text = " ".join(session.contexts) if distract is None else distract
    with kind.showing(kind.base) as editable:
        sheets = sheets_of(editable, requests, text, own.prompts if own else ())
        base = answered(editable, sheets)
        context = answered(editable, sheets, told=True, base=base)
    with kind.showing(session.state) as editable:
        return honest_scores(sheets, base, context, answered(editable, sheets, base=base))


def _mean(figure: Figure, asked: Sequence[str], ids: Sequence[str]) -> float | None:
    """The mean over the facts `ids` of those `asked`; a figure that is no mean over facts has only that of all."""
    if not figure.each:
        return figure.value if len(ids) == len(asked) else None
    each = dict(zip(asked, figure.each, strict=True))
    values = [value for id in ids if (value := each[id]) is not None]
    return fmean(values) if values else None
