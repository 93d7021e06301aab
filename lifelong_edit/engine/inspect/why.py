"""Why a fact is not said: the stages of its way from the target to other words, and the first at which it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lifelong_edit.algebra.telemetry import largest_first
from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.engine.inspect.blame import edit_named, forgotten
from lifelong_edit.engine.state.session import Session
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kind import Head, State
from lifelong_edit.kinds.stage import Stage, asked
from lifelong_edit.store import FactLife
from lifelong_edit.tracking.drift import next_distributions

WAY = ("target", "alone", "written", "now")  # the stages of the bare prompt
STRANGE = 8  # sentences that a fact is asked behind
NAMED = 3  # entries or facts that advice names


@dataclass(frozen=True, slots=True)
class Why:
    """How an active fact fares at every stage.

    - `target`: its target injected at the edited weights' outputs, nothing written.
    - `alone`: weights that hold this fact's value and no other.
    - `written`: the model right after the commit that wrote it.
    - `now`: the model as it is.
    - `behind a sentence`: its prompt behind texts that it was not fitted to. Many models lose there what they know
      themselves: a fact is asked for no more than the base keeps of its own first choice behind the same texts.
    - `in other words`: its wordings and paraphrase prompts; left out for a fact that has none.
    """

    fact: str
    target: str
    stages: tuple[Stage, ...]

    @property
    def lost(self) -> Stage | None:
        """The stage at which the fact is lost; None for one that holds everywhere.

        On the way to `now`, what a later stage says makes up for an earlier one that does not.
        """
        way = self.stages[: len(WAY)]
        start = max((i + 1 for i, stage in enumerate(way) if stage.holds), default=0)
        return next((stage for stage in self.stages[start:] if not stage.holds), None)


def why(session: Session, name: str) -> Why:
    """Ask an active fact stage by stage; `RequestError` for one unknown, protected or inactive."""
    session.at_head()
    kind, fact = session.kind, edit_named(session, name)
    request, then = fact.request, _right_after(session, fact.seq)
    own = kind.own_stages(session.head, fact.id)

    def stage(name: str, state: State, prompts: Sequence[str]) -> Stage:
        with kind.showing(state) as editable:
            return asked(editable, name, prompts, request.answer)

    bare, now = [request.question], session.state
    behind = [prefix + request.question for prefix in _strange(session, request)]
    stages = [
        *own,
        stage("written", then.state or kind.base, bare).mended_by(lambda: _beside(session, then, fact)),
        stage("now", now, bare).mended_by(lambda: _since(session, fact)),
        replace(stage("behind a sentence", now, behind), possible=_kept(session, request.question, behind)).mended_by(
            lambda: _more_contexts(session)
        ),
    ]
    if words := _other_words(request):
        stages.append(stage("in other words", now, words).mended_by(lambda: _more_wordings(request)))
    return Why(fact.id, request.target_new, tuple(stages))


def _right_after(session: Session, seq: int) -> Head:
    """The head that the store had when entry `seq` was the newest."""
    history = session.history_at(seq)
    return Head(session.head.entries[: seq + 1], history, session.state_at(history))


def _strange(session: Session, request: EditRequest) -> Sequence[str]:
    """Contexts of the store that the fact was not fitted to; where there are none, others sampled from the base."""
    fitted = {form.prefix for form in session.kind.forms(session.kind.bench.texts, request)}
    left = [context for context in session.contexts if context not in fitted]
    if left:
        return left[:STRANGE]
    with session.kind.showing(session.kind.base) as editable:
        return sample_contexts(editable, STRANGE, session.settings.seed + 1)


def _kept(session: Session, prompt: str, behind: Sequence[str]) -> float:
    """The share of the texts behind which the base still has the first choice that it has for the bare prompt."""
    chosen = torch.zeros(1 + len(behind), dtype=torch.long)
    with session.kind.showing(session.kind.base) as editable:
        for numbers, log_probabilities in next_distributions(editable, [prompt, *behind]):
            chosen[numbers] = log_probabilities.argmax(-1)
    return float((chosen[1:] == chosen[0]).double().mean())


def _other_words(request: EditRequest) -> list[str]:
    wordings = [replace(request, prompt=prompt, wordings=()).question for prompt in request.wordings]
    return [*wordings, *request.paraphrase_prompts]


def _beside(session: Session, then: Head, fact: FactLife) -> str:
    shares, _ = session.kind.shares(then, fact.question)
    others = largest_first({slot: abs(share) for slot, share in shares.items() if slot != fact.slot})[:NAMED]
    slots = then.history.slots()
    named = ", ".join(f"{' and '.join(slots[slot])} ({shares[slot]:+.2f})" for slot in others) or "its own slot's"
    return (
        f"Facts written before it or with it drown it. Those with the largest shares of what edits did to its prompt: "
        f"{named}. A smaller ridge, apply(..., ridge=), tells near keys apart; so does a wording whose subject ends "
        "otherwise."
    )


def _since(session: Session, fact: FactLife) -> str:
    gone = forgotten(session, fact.id)
    named = ", ".join(f"{one.seq} ({one.share:+.2f})" for one in gone.suspects[:NAMED])
    suspects = f"Entries with the largest shares of what is missing: {named}." if named else "Its own slot was changed."
    told = f" Without entry {gone.suspects[0].seq} the model says {gone.without!r}." if gone.suspects else ""
    return (
        f"A later commit lost it. {suspects}{told} relax() in joint memory, repair() in batch memory may bring it "
        "back; revert(commit=) takes an entry out."
    )


def _more_contexts(session: Session) -> str:
    return (
        f"Its target holds in too few surroundings. Make the store with more contexts (now {len(session.contexts)}), "
        "from generic text (text=) where targets are those of several layers."
    )


def _more_wordings(request: EditRequest) -> str:
    return (
        f"Its target means the sentence. Give the request wordings (now {len(request.wordings)}), in a store whose "
        "targets are those of several layers: a target of one layer is fitted to the prompt alone."
    )
