"""Collect what a report tells of a store as plain values: from the ledger, and with a model from stored keys."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine import Reader
from lifelong_edit.store import Entry, FactLife
from lifelong_edit.store.ledger import WeightTelemetry
from lifelong_edit.tracking.health import HealthLimits
from lifelong_edit.tracking.retention import FactScore, ForgettingPoint, RetentionMatrix, forgetting_curve, series
from lifelong_edit.tracking.scores import measurements

NAMED = 5  # subjects that a moment names
OF_TELEMETRY: Mapping[str, Literal["preservation", "capacity", "relative_norm"]] = {
    "preservation": "preservation",
    "capacity": "capacity",
    "norm": "relative_norm",
}
Curve = list[tuple[int, float]]  # seq, value


@dataclass(frozen=True)
class Moment:
    """An entry of the time line: who did what, when and why. `superseded` counts the facts that it superseded."""

    seq: int
    digest: str
    kind: str
    time: str
    actor: str | None
    reason: str | None
    facts: int
    superseded: int
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class FactRow:
    """A fact with its first and its newest score; risk and residual are None where they were not read."""

    id: str
    seq: int
    status: str
    question: str
    target: str
    first: float | None
    last: float | None
    asked: int | None
    risk: float | None
    residual: float | None
    reason: str | None

    @property
    def badness(self) -> tuple[bool, float]:
        """The key that sorts facts from bad to good: first those not said at the newest measurement, then by risk."""
        return (
            self.status == "active" and self.last is not None and self.last < 0.5,
            -math.inf if self.risk is None else self.risk,
        )


@dataclass(frozen=True)
class Story:
    """The content of a report. `signs` are vital signs, `drift` what `measure(drift=True)` found, both over seq.

    `unsaid` are the active facts that the model did not say when last asked, each with the seq of that entry.
    """

    store: str
    head: str
    fingerprint: str
    counts: Mapping[str, int]
    unsaid: Mapping[str, int]
    settings: Mapping[str, Any]
    moments: Sequence[Moment]
    matrix: RetentionMatrix
    forgotten: Sequence[ForgettingPoint]
    signs: Mapping[str, Curve]
    limits: HealthLimits
    capacity: Mapping[str, float]
    drift: Mapping[str, Curve]
    facts: Sequence[FactRow]


def story_of(reader: Reader, store: str, deep: bool) -> Story:
    """Collect the story of an open store; `deep` adds risks and residuals, for which the reader needs its model."""
    entries, facts = reader.history(), reader.facts()
    measured = list(measurements(entries, EFFICACY))
    risks, residuals = (reader.risks(), reader.residuals()) if deep else ({}, {})
    silent = reader.unsaid()
    rows = _rows(entries, facts, series(measured), silent, risks, residuals)
    return Story(
        store=store,
        head=entries[-1].digest,
        fingerprint=entries[0].body["fingerprint"],
        counts=Counter(fact.status for fact in facts.values()),
        unsaid=silent,
        settings=entries[0].body["config"],
        moments=[_moment(entry) for entry in entries],
        matrix=reader.retention(),
        forgotten=forgetting_curve(measured),
        signs=_signs(entries),
        limits=reader.limits(),
        capacity=_capacity(entries),
        drift=_drift(entries),
        facts=sorted(rows, key=lambda row: row.badness, reverse=True),
    )


def _moment(entry: Entry) -> Moment:
    body = entry.body
    named = [f["request"]["subject"] for f in body.get("facts", ()) if not isinstance(f, str)]
    return Moment(
        entry.seq,
        entry.digest,
        entry.kind,
        entry.time,
        body.get("actor"),
        body.get("reason"),
        len(body.get("facts", ())),
        len(body.get("superseded", ())),
        tuple(named[:NAMED]),
    )


def _signs(entries: Sequence[Entry]) -> dict[str, Curve]:
    """Collect the curve of every sign: of weights at every change, of facts and texts where a budget read them."""
    curves: dict[str, dict[int, float]] = {}
    for entry in entries:
        read = entry.body.get("telemetry", {}).values()
        # Of several edited weights the worst one is drawn.
        for sign, figure in OF_TELEMETRY.items():
            values = [value for one in read if (value := one.get(figure)) is not None]
            if values:
                curves.setdefault(sign, {})[entry.seq] = max(values)
        for sign, value in entry.body.get("vital", {}).get("signs", {}).items():
            curves.setdefault(sign, {})[entry.seq] = value
    return {sign: sorted(curve.items()) for sign, curve in curves.items()}


def _drift(entries: Sequence[Entry]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for entry in entries:
        for row in entry.body.get("drift", ()):
            if row["value"] is not None:
                curves.setdefault(row["metric"], []).append((entry.seq, row["value"]))
    return curves


def _capacity(entries: Sequence[Entry]) -> dict[str, float]:
    """Find each edited weight's capacity at the newest entry that records it."""
    newest: Mapping[str, WeightTelemetry] = next(
        (e.body["telemetry"] for e in reversed(entries) if "telemetry" in e.body), {}
    )
    return {weight: share for weight, read in newest.items() if (share := read.get("capacity")) is not None}


def _rows(
    entries: Sequence[Entry],
    facts: Mapping[str, FactLife],
    measured: Mapping[str, Sequence[FactScore]],
    silent: Mapping[str, int],
    risks: Mapping[str, float],
    residuals: Mapping[str, float],
) -> list[FactRow]:
    rows = []
    for fact in facts.values():
        own = measured.get(fact.id, ())
        first = next((one.value for one in own if one.seq == one.cohort), None)
        newest = (own[-1].value, own[-1].seq) if own else (None, None)
        last, asked = (0.0, silent[fact.id]) if fact.id in silent else newest
        rows.append(
            FactRow(
                fact.id,
                fact.seq,
                "protected" if fact.protected and fact.status == "active" else fact.status,
                fact.question,
                fact.request.target_new,
                first,
                last,
                asked,
                risks.get(fact.id),
                residuals.get(fact.id),
                entries[fact.seq].body.get("reason"),
            )
        )
    return rows
