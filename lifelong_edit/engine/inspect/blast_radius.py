"""The blast radius of a change: what it does to the facts that it is not about, predicted and then measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lifelong_edit.engine.change.plan import Change
from lifelong_edit.engine.state.session import Session
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
    standing = {id: chain[-1] for chain in before.chains().values() for id in chain[-1].facts}
    others = {id: column for id, column in standing.items() if id not in changed}
    shifts = dict.fromkeys(others, 0.0)
    for layer in session.head.layers.values():
        values = {placed.value: i for i, placed in enumerate(layer.placed)}
        held = layer.whole.take([values[column] for column in others.values()])
        pair = change.deltas[layer.name]
        moved = (pair.left @ (pair.right.T @ held.keys)).norm(dim=0)  # |D k|  [n]
        share = moved / held.base_residuals.norm(dim=0).clamp_min(1e-300)
        shifts = {id: max(known, float(new)) for (id, known), new in zip(shifts.items(), share, strict=True)}
    ordered = sorted(shifts.items(), key=lambda item: -item[1])
    recomputed = _recomputed(session, change)
    gone = [before.facts[id].seq for id in changed if id in before.active]
    later = {c.seq for c in before.columns if gone and c.seq > min(gone) and c.facts & others.keys()}
    saw = tuple(sorted(later)) if session.settings.targets == "live" else ()
    return BlastRadius(tuple(Shift(id, after.facts[id].seq, size) for id, size in ordered), recomputed, saw)


def target_scores(session: Session, shifts: Sequence[Shift]) -> list[Score]:
    """How the live model says the facts of these shifts."""
    facts, editable = session.head.history.facts, session.editable
    requests = [facts[shift.fact].request for shift in shifts]
    pairs = [(request.question, request.target_new) for request in requests]
    return score_continuations(editable.model, editable.tokenizer, pairs)


def _recomputed(session: Session, change: Change) -> tuple[int, ...]:
    """The seqs of the batches of the head whose pairs are others after the change."""
    number, layer = next(iter(session.head.layers.items()))
    after = change.layers[number]
    return tuple(seq for seq, pair in after.pairs.items() if seq in layer.pairs and layer.pairs[seq] is not pair)
