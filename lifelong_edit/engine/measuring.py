"""Measuring what is kept: how many facts of every cohort the model still says."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from lifelong_edit.engine.session import Session
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.scores import score_continuations

EFFICACY = "argmax efficacy"


@dataclass(frozen=True)
class Kept:
    """A metric's mean `value` over the `facts` active facts that entry `cohort` wrote."""

    cohort: int
    metric: str
    value: float
    facts: int


def retention(session: Session) -> list[Kept]:
    """To every edit that wrote facts active now, the share of them whose target is the live model's first choice."""
    cohorts: dict[int, list[EditRequest]] = {}
    for fact in session.head.history.active.values():
        cohorts.setdefault(fact.seq, []).append(EditRequest.from_dict(fact.request))
    pairs = [(r.question, r.target_new) for cohort in cohorts.values() for r in cohort]
    scores = iter(score_continuations(session.editable.model, session.editable.tokenizer, pairs))
    return [
        Kept(seq, EFFICACY, fmean(next(scores).argmax for _ in cohort), len(cohort)) for seq, cohort in cohorts.items()
    ]
