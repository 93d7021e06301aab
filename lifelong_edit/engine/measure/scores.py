"""Measuring what is kept: which facts are asked about, what the ledger keeps of it, and what is read from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store import EDITS, Entry, FactLife
from lifelong_edit.store.bodies import added_facts
from lifelong_edit.tracking.figures import Figure
from lifelong_edit.tracking.retention import FactScore
from lifelong_edit.tracking.scores import measure


def scored(editable: EditableModel, facts: Sequence[FactLife], metrics: Iterable[str]) -> dict[str, Figure]:
    """The figures of these facts on a model, by metric."""
    return measure(editable, [fact.request for fact in facts], metrics)


def scores_body(facts: Sequence[FactLife], figures: Mapping[str, Figure]) -> dict[str, Any]:
    """What an entry's body keeps of these figures: every fact's score by metric, and means by cohort."""
    scores = {name: dict(zip([fact.id for fact in facts], f.each, strict=True)) for name, f in figures.items()}
    return {"scores": scores, "retention": [row for name in scores for row in _rows(facts, name, scores[name])]}


def measurements(entries: Iterable[Entry], metric: str) -> Iterator[FactScore]:
    """Every score of `metric` in the ledger: those taken at the edit, and later ones."""
    cohorts: dict[str, int] = {}
    for entry in entries:
        if entry.kind in EDITS:
            cohorts |= {fact["id"]: entry.seq for fact in added_facts(entry.body)}
        for id, value in entry.body.get("scores", {}).get(metric, {}).items():
            if value is not None:
                yield FactScore(entry.seq, cohorts[id], id, value)


def _rows(facts: Sequence[FactLife], metric: str, scores: Mapping[str, float | None]) -> Iterator[dict[str, Any]]:
    """The mean of every cohort over its facts that have a score, as the view `retention` shows it."""
    cohorts: dict[int, list[float]] = {}
    for fact in facts:
        score = scores[fact.id]
        if score is not None:
            cohorts.setdefault(fact.seq, []).append(score)
    for seq, own in cohorts.items():
        yield {"cohort": seq, "metric": metric, "value": fmean(own), "facts": len(own)}
