"""Making a change durable, then live: record, ledger entry, weights in memory, in this order.

A change of which facts are active is measured by its blast radius: what it does to the facts that it is not about.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lifelong_edit.algebra.telemetry import largest_first
from lifelong_edit.defaults import EFFICACY, PROBED
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import NotSaid
from lifelong_edit.kinds.kind import Change, State
from lifelong_edit.store import EDITS, Entry, FactLife
from lifelong_edit.tracking.generation import answer
from lifelong_edit.tracking.scores import Score, score_continuations, scored, scores_body

SURVIVAL_WARNING = 0.9
SAID_WARNING = 0.5  # share of its facts that the model is to say after an edit


@dataclass(frozen=True)
class Commit:
    """What a change did, or with `entry` None what it would do.

    `facts` are those it is about; `superseded` and `restored` those that went and came back with them; `rewritten`
    those for whose slot a value had to be optimised anew. `skipped` are ids of requests that were known already.
    `failed` are the facts of an edit that the model does not say after it, or of a protection those to which it answers
    otherwise than the base. `cost` are older facts that it said before and does not say now, found among those that the
    change is predicted to move most. `undone` is the entry that took failed facts out again (`OnFail.revert`), those of
    an interrupted run among them. `survived` is, to each edited weight, the share of its delta that the cast to the
    live dtype kept. A refit has its `effect`: figures before and after.
    """

    entry: Entry | None
    facts: tuple[FactLife, ...] = ()
    skipped: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    cost: tuple[str, ...] = ()
    undone: Entry | None = None
    survived: Mapping[str, float] | None = None
    radius: BlastRadius | None = None
    effect: Mapping[str, tuple[float, float]] | None = None

    @property
    def requests(self) -> int:
        """How many requests of a stream it took in, new ones and known ones; a refit none."""
        return 0 if self.effect else len(self.facts) + len(self.skipped)

    def check(self) -> None:
        """Raise `NotSaid` naming the facts that do not hold and stay committed."""
        if self.entry is not None and self.failed and self.undone is None:
            raise NotSaid(
                f"{len(self.failed)} of {len(self.facts)} facts of entry {self.entry.seq} do not hold: "
                f"{', '.join(self.failed)}. They stand, and nothing was written after them: revert them, or go on."
            )


def commit(session: Session, change: Change, requests: Mapping[str, str], skipped: tuple[str, ...] = ()) -> Commit:
    """Commit a change. `requests` are its idempotency keys: id and content digest. An edit says how it took."""
    kind, head = session.kind, session.head
    kept = kind.survival(session.state, change.state)  # refuses what the live model cannot hold
    body = {**change.body, "weights": change.state.digest, "survived": kept}
    about = change.history.named(body)
    if change.kind in EDITS and "scores" not in body:
        with kind.showing(change.state) as editable:
            body |= scores_body(about, scored(editable, about, (EFFICACY,)))
    failed, cost = _failed(session, change, about, body), _cost(session, change)
    body |= {name: list(ids) for name, ids in (("failed", failed), ("cost", cost)) if ids}
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
    if len(failed) > (1 - SAID_WARNING) * len(about) and "on_fail" not in body:
        warnings.warn(
            f"{len(failed)} of the {len(about)} facts of entry {entry.seq} do not hold. Revert the entry, and apply "
            "its facts with another ridge, or fewer that are alike.",
            stacklevel=4,
        )
    return replace(described(change), entry=entry, skipped=skipped, failed=failed, cost=cost, survived=kept)


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


def _cost(session: Session, change: Change) -> tuple[str, ...]:
    """The older facts said before an edit and not after it, of the `PROBED` that stored keys say it moves most."""
    if change.kind not in (*EDITS, "protect"):
        return ()
    older = [id for id in session.head.history.active if id in change.history.active]
    shifts = session.kind.shifts(session.head, change, older) if older else {}
    asked = [change.history.facts[id] for id in largest_first(shifts)[:PROBED] if shifts[id]]
    # What is said still needs no second look: the state before is asked only about the others.
    missing = [fact for fact, said in zip(asked, _said(session, change.state, asked), strict=True) if not said]
    return tuple(f.id for f, said in zip(missing, _said(session, session.state, missing), strict=True) if said)


def _said(session: Session, state: State, facts: Sequence[FactLife]) -> list[bool]:
    """Whether the model says each of the facts in a state."""
    if not facts:
        return []
    with session.kind.showing(state) as editable:
        return [score == 1.0 for score in scored(editable, facts, (EFFICACY,))[EFFICACY].each]


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


@dataclass(frozen=True)
class Shift:
    """What a change does to one fact that it leaves active.

    `predicted` is |D k| / |v - W_0 k| with the delta D and the fact's stored key and value, the largest over the edited
    layers. `before` and `after` are measured: the target's score on the model without and with the change.
    """

    fact: str
    seq: int
    predicted: float
    before: Score | None = None
    after: Score | None = None


@dataclass(frozen=True)
class BlastRadius:
    """Every other active fact, the most affected first, and the entries that saw what is taken out now.

    `recomputed` are the seqs of batches that are solved anew, because they came after something that changes.
    `saw` are those after it whose live targets were optimised on weights that may have held it, which a revert does
    not undo; none with base targets.
    """

    shifts: tuple[Shift, ...]
    recomputed: tuple[int, ...]
    saw: tuple[int, ...]

    def with_scores(self, before: Sequence[Score], after: Sequence[Score]) -> BlastRadius:
        """The radius with what was measured of its most affected facts, in their order, before and after the change."""
        first = [replace(s, before=b, after=a) for s, b, a in zip(self.shifts, before, after, strict=False)]
        return replace(self, shifts=(*first, *self.shifts[len(first) :]))

    @property
    def measured(self) -> tuple[Shift, ...]:
        """The shifts that were measured before and after the change."""
        return tuple(shift for shift in self.shifts if shift.before and shift.after)

    @property
    def lost(self) -> tuple[Shift, ...]:
        """The measured facts whose target was the model's first choice and is no longer."""
        return tuple(s for s in self.measured if s.before and s.after and s.before.argmax and not s.after.argmax)


def predicted(session: Session, change: Change) -> BlastRadius:
    """The blast radius from stored keys alone: no forward pass."""
    before, after = session.head.history, change.history
    changed = {id for id, fact in after.facts.items() if fact != before.facts.get(id)} | set(change.rewritten)
    others = [id for id in before.active if id not in changed]
    shifts = session.kind.shifts(session.head, change, others)
    recomputed = session.kind.recomputed(session.head, change)
    gone = [before.facts[id].seq for id in changed if id in before.active]
    later = {c.seq for c in before.columns if gone and c.seq > min(gone) and c.facts & set(others)}
    saw = tuple(sorted(later)) if session.settings.targets == "live" else ()
    ordered = tuple(Shift(id, after.facts[id].seq, shifts[id]) for id in largest_first(shifts))
    return BlastRadius(ordered, recomputed, saw)


def target_scores(session: Session, shifts: Sequence[Shift]) -> list[Score]:
    """How the model at the head says the facts of these shifts."""
    facts = session.head.history.facts
    pairs = [(facts[shift.fact].question, facts[shift.fact].request.answer) for shift in shifts]
    with session.kind.showing(session.state) as editable:
        return score_continuations(editable.model, editable.texts, pairs)
