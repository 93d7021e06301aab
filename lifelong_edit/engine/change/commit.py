"""Making a change durable, then live: record, ledger entry, weights in memory, in this order."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine.inspect.blast_radius import BlastRadius, predicted, target_scores
from lifelong_edit.engine.measure.scores import scored, scores_body
from lifelong_edit.engine.state.session import Session
from lifelong_edit.kinds.kind import Change
from lifelong_edit.store import EDITS, Entry, FactLife
from lifelong_edit.tracking.generation import answer

SURVIVAL_WARNING = 0.9
SAID_WARNING = 0.5  # share of its facts that the model is to say after an edit


@dataclass(frozen=True)
class Commit:
    """What a change did, or with `entry` None what it would do.

    `facts` are those it is about; `superseded` and `restored` those that went and came back with them; `rewritten`
    those for whose slot a value had to be optimised anew. `skipped` are ids of requests that were known already.
    `failed` are the facts of an edit that the model does not say after it, or of a protection those to which it answers
    otherwise than the base. `survived` is, to each edited weight, the share of its delta that the cast to the live
    dtype kept. A refit has its `effect`: figures before and after.
    """

    entry: Entry | None
    facts: tuple[FactLife, ...] = ()
    skipped: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    survived: Mapping[str, float] | None = None
    radius: BlastRadius | None = None
    effect: Mapping[str, tuple[float, float]] | None = None

    @property
    def requests(self) -> int:
        """How many requests of a stream it took in, new ones and known ones; a refit none."""
        return 0 if self.effect else len(self.facts) + len(self.skipped)


def commit(session: Session, change: Change, requests: Mapping[str, str], skipped: tuple[str, ...] = ()) -> Commit:
    """Commit a change. `requests` are its idempotency keys: id and content digest. An edit says how it took."""
    kind, head = session.kind, session.head
    kept = kind.survival(session.state, change.state)  # refuses what the live model cannot hold
    body = {**change.body, "weights": change.state.digest, "survived": kept}
    about = change.history.named(body)
    if change.kind in EDITS and "scores" not in body:
        with kind.showing(change.state) as editable:
            body |= scores_body(about, scored(editable, about, (EFFICACY,)))
    failed = _failed(session, change, about, body)
    body = {**kind.told(head, change), **body}
    record = kind.record(change, [fact.id for fact in about])
    entry = session.store.commit(change.kind, body, record, requests, head.last.digest)
    session.take(entry, change)
    if kept and min(kept.values()) < SURVIVAL_WARNING:
        warnings.warn(
            f"Only {min(kept.values()):.0%} of the edit survived the cast to {session.editable.dtype}. "
            "Open the model in float32, and cast when exporting.",
            stacklevel=4,
        )
    if len(failed) > (1 - SAID_WARNING) * len(about):
        warnings.warn(
            f"{len(failed)} of the {len(about)} facts of entry {entry.seq} do not hold. Revert the entry, and apply "
            "its facts with another ridge, or fewer that are alike.",
            stacklevel=4,
        )
    return replace(described(change), entry=entry, skipped=skipped, failed=failed, survived=kept)


def _failed(session: Session, change: Change, facts: Sequence[FactLife], body: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of the facts an entry is about that do not hold: edits by the scores in its body."""
    if change.kind in EDITS:
        scores = body["scores"][EFFICACY]
        return tuple(fact.id for fact in facts if not scores[fact.id])
    if change.kind != "protect":
        return ()
    answers = []
    for state in (session.kind.base, change.state):
        with session.kind.showing(state) as editable:
            answers.append([answer(editable, fact.question) for fact in facts])
    return tuple(fact.id for fact, was, now in zip(facts, *answers, strict=True) if was != now)


def described(change: Change, radius: BlastRadius | None = None) -> Commit:
    """The change as a commit that is not made."""
    return Commit(
        entry=None,
        radius=radius,
        facts=change.history.named(change.body),
        superseded=tuple(change.body.get("superseded", ())),
        restored=tuple(change.body.get("restored", ())),
        rewritten=change.rewritten,
    )


def commit_measured(session: Session, change: Change, count: int) -> Commit:
    """Commit a change, with its blast radius; the `count` most affected facts are measured before and after."""
    radius = predicted(session, change)
    asked = radius.shifts[:count]
    before = target_scores(session, asked)
    done = commit(session, change, {})
    return replace(done, radius=radius.with_scores(before, target_scores(session, asked)))
