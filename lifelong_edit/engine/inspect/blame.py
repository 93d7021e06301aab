"""Blame: which facts are behind an answer, and which later edit made the model forget a fact.

Both are read off what a store holds, and confirmed by leaving the suspect out.
"""

from __future__ import annotations

from dataclasses import dataclass

from lifelong_edit.algebra.telemetry import largest_first
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import RequestError
from lifelong_edit.kinds.kind import State
from lifelong_edit.store import FactLife
from lifelong_edit.store.history import fact_named
from lifelong_edit.tracking.generation import answer


@dataclass(frozen=True)
class Blamed:
    """One slot's part in an answer: its active facts, those first whose target the model says.

    `share` is the part of what the edits add to the edited weights' outputs on this prompt that the slot's columns
    account for; the shares of all slots sum to 1 (one may be negative: it works against the others). `without` is what
    the model says once the slot's columns are taken out.
    """

    facts: tuple[str, ...]
    share: float
    without: str


@dataclass(frozen=True)
class Blame:
    """What the model says to a prompt, what the base said, and the slots behind the change, the largest share first.

    `moved` is |D K| / |W_0 K| over the prompt's tokens: how much the edits do here at all.
    """

    prompt: str
    said: str
    base: str
    moved: float
    slots: tuple[Blamed, ...]


@dataclass(frozen=True, slots=True)
class Suspect:
    """One batch's part in what the weights miss of a fact's value.

    `share` is <part, missing> / |missing|^2 over the edited layers; the shares of all batches sum to 1, and one is
    negative where a batch gives back. `facts` are those of the batch whose columns stand.
    """

    seq: int
    share: float
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of a fact, and why.

    `base` and `now` are what the model said before all edits and says now. `missing` is |v - W k| / |v - W_0 k|. `own`
    is the part of the fact's own batch: what it left unwritten. `suspects` are the later batches, the largest share
    first, and `without` is what the model says once all columns of the first are taken out; None without a later one.
    """

    fact: str
    target: str
    base: str
    now: str
    missing: float
    own: Suspect
    suspects: tuple[Suspect, ...]
    without: str | None

    @property
    def said(self) -> bool:
        """Whether the model says the fact now."""
        return self.now.startswith(self.target)

    @property
    def confirmed(self) -> bool:
        """Whether the fact is not said, and is without the first suspect."""
        return not self.said and self.without is not None and self.without.startswith(self.target)


def blame(session: Session, prompt: str, count: int = 5) -> Blame:
    """The `count` slots with the largest shares, each tried by leaving it out; one fact must be active."""
    session.at_head()
    kind, head = session.kind, session.head
    if not head.history.active:
        raise RequestError("No fact is active, so no edit can be behind an answer.")
    if not prompt.strip():
        raise RequestError("The prompt is empty. Give the text whose continuation you want explained.")
    shares, moved = kind.shares(head, prompt)
    said = _answer(session, session.state, prompt)
    top = largest_first({slot: abs(share) for slot, share in shares.items()})[:count]
    found = [_blamed(session, slot, shares[slot], prompt, said) for slot in top]
    return Blame(prompt, said, _answer(session, kind.base, prompt), moved, tuple(found))


def forgotten(session: Session, name: str) -> Forgotten:
    """Who is behind what is missing of an active fact; `RequestError` for one unknown, protected or inactive."""
    session.at_head()
    kind, head = session.kind, session.head
    fact = edit_named(session, name)
    shares, own, missing = kind.suspects(head, fact.id)
    found = {seq: Suspect(seq, share, _facts(session, seq)) for seq, share in shares.items()}
    later = [found[seq] for seq in largest_first(shares) if seq > own]
    base, now, without = (
        _answer(session, kind.base, fact.question),
        _answer(session, session.state, fact.question),
        None,
    )
    if later:
        without = _answer(session, kind.without(head, seq=later[0].seq), fact.question)
    return Forgotten(fact.id, fact.request.target_new, base, now, missing, found[own], tuple(later), without)


def edit_named(session: Session, name: str) -> FactLife:
    """The fact of this name that an edit holds now; `RequestError` for one unknown, protected or inactive."""
    fact = fact_named(session.head.history.facts, name)
    if fact.status != "active" or fact.protected:
        status = "protected" if fact.status == "active" else fact.status
        instead = f" ({fact.by!r} has its place)" if fact.by else ""
        raise RequestError(
            f"fact {fact.id!r} is {status}{instead}, so there is no edit that could be forgotten. Name an active edit."
        )
    return fact


def _answer(session: Session, state: State, prompt: str) -> str:
    with session.kind.showing(state) as editable:
        return answer(editable, prompt)


def _blamed(session: Session, slot: str, share: float, prompt: str, said: str) -> Blamed:
    """The slot's facts, those that the model says first, and the answer without its columns."""
    history = session.head.history
    without = _answer(session, session.kind.without(session.head, slot=slot), prompt)
    ids = sorted(history.slots()[slot], key=lambda id: not said.startswith(history.facts[id].request.target_new))
    return Blamed(tuple(ids), share, without)


def _facts(session: Session, seq: int) -> tuple[str, ...]:
    """The active facts that the batch `seq` holds."""
    return tuple(sorted(session.kind.held_by(session.head, seq)))
