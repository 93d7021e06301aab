"""Looking at a store without changing it: the model as it was after some entry, and what two states differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lifelong_edit.algebra.system import Pair
from lifelong_edit.engine.state.session import Session
from lifelong_edit.kinds.kind import Kind, State
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store import FactLife, History
from lifelong_edit.tracking.generation import answer


@dataclass(frozen=True)
class View:
    """The state after entry `seq`, read-only. Its model shares all tensors but the edited weights with the live one."""

    seq: int
    history: History
    editable: EditableModel
    kind: Kind
    state: State

    @property
    def deltas(self) -> Mapping[str, Pair]:
        """What was added to each edited weight, as a thin pair; `RequestError` from a kind that adds no such thing."""
        return self.kind.deltas(self.state)

    @property
    def facts(self) -> dict[str, FactLife]:
        """The facts that were active, by id."""
        return self.history.active

    def answer(self, prompt: str) -> str:
        """What the model said to `prompt`, greedily."""
        return answer(self.editable, prompt)


@dataclass(frozen=True)
class Diff:
    """What state `b` has that state `a` has not, and the other way round.

    `gained` and `lost` are facts active in one of them only. `weights` is, to each edited weight, |W_b - W_a| / |W_0|.
    `answers` are prompts to which the two models say different things, with what each says.
    """

    a: int
    b: int
    gained: tuple[FactLife, ...]
    lost: tuple[FactLife, ...]
    weights: Mapping[str, float]
    answers: Mapping[str, tuple[str, str]]


def view_at(session: Session, seq: int) -> View:
    """The state after entry `seq`."""
    history = session.history_at(seq)
    state = session.state_at(history)
    return View(seq, history, session.kind.apart(state), session.kind, state)


def difference(session: Session, a: int, b: int, prompts: Sequence[str] | None = None) -> Diff:
    """What the states after entries `a` and `b` differ in; by default with the prompts of these facts."""
    (one, mine), (other, theirs) = ((h, session.state_at(h)) for h in map(session.history_at, (a, b)))
    gained = tuple(fact for id, fact in other.active.items() if id not in one.active)
    lost = tuple(fact for id, fact in one.active.items() if id not in other.active)
    if prompts is None:
        prompts = list(dict.fromkeys(fact.request.question for fact in (*gained, *lost)))
    said = []
    for state in (mine, theirs):
        with session.kind.showing(state) as editable:
            said.append([answer(editable, prompt) for prompt in prompts])
    answers = {prompt: (x, y) for prompt, x, y in zip(prompts, *said, strict=True) if x != y}
    return Diff(a, b, gained, lost, session.kind.distances(mine, theirs), answers)
