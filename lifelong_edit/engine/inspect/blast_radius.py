"""The blast radius of a change: what it does to the facts that it is not about, predicted and then measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lifelong_edit.engine.state.session import Session
from lifelong_edit.kinds.kind import Change
from lifelong_edit.tracking.scores import Score, score_continuations


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
    ordered = sorted(shifts.items(), key=lambda item: -item[1])
    recomputed = session.kind.recomputed(session.head, change)
    gone = [before.facts[id].seq for id in changed if id in before.active]
    later = {c.seq for c in before.columns if gone and c.seq > min(gone) and c.facts & set(others)}
    saw = tuple(sorted(later)) if session.settings.targets == "live" else ()
    return BlastRadius(tuple(Shift(id, after.facts[id].seq, size) for id, size in ordered), recomputed, saw)


def target_scores(session: Session, shifts: Sequence[Shift]) -> list[Score]:
    """How the model at the head says the facts of these shifts."""
    facts = session.head.history.facts
    pairs = [(facts[shift.fact].question, facts[shift.fact].request.target_new) for shift in shifts]
    with session.kind.showing(session.state) as editable:
        return score_continuations(editable.model, editable.texts, pairs)
