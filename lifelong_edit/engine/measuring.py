"""Measuring what is kept: how many facts of every cohort the model still says, as an entry of the ledger."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from lifelong_edit.engine.session import Session
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.scores import score_continuations

EFFICACY = "argmax efficacy"


def retention(session: Session) -> list[dict[str, Any]]:
    """To every edit that wrote facts active now, the share of them whose target is the model's first choice."""
    cohorts: dict[int, list[EditRequest]] = {}
    for fact in session.head.history.active.values():
        cohorts.setdefault(fact.seq, []).append(EditRequest.from_dict(fact.request))
    pairs = [(r.question, r.target_new) for cohort in cohorts.values() for r in cohort]
    scores = iter(score_continuations(session.editable.model, session.editable.tokenizer, pairs))
    return [
        {
            "cohort": seq,
            "metric": EFFICACY,
            "value": fmean(next(scores).argmax for _ in cohort),
            "facts": len(cohort),
        }
        for seq, cohort in cohorts.items()
    ]
