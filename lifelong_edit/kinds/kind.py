"""The protocol of a kind of memory: what can hold facts, and what every kind gives to the engine.

The engine with its verbs, the budget, the report and the command line know this page and no kind by name. A kind says
how a state follows from ledger and records (`fold`), how a batch is written (`write`), what taking facts out means
(`promise`), how a state is put on a live model and taken off again (`State.attach`), and what a store can be exported
as (`exports`). What only some kinds can do, such as blaming a fact by its key, is a method that refuses here and that
those kinds have.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NoReturn

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.deviation import Deviation
from lifelong_edit.kinds.stage import Stage
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store import Entry, History, ObjectStore, Store

Promise = Literal["exact", "own contribution", "replay"]
"""What taking a fact out leaves: a model that never had it; one without the fact's recorded part; one that was edited
again without it, from the ledger, which needs the model."""
Effect = dict[str, tuple[float, float]]
"""Figures before a refit and after it: efficacy, and `drift`, the vital sign kl or, without a watch, preservation."""


def improves(effect: Effect) -> bool:
    """Whether more facts are said and the model is nearer to its base."""
    (said_before, said_after), (far_before, far_after) = effect[EFFICACY], effect["drift"]
    return said_after > said_before and far_after < far_before


class State(ABC):
    """What the active facts have made of a model. A value: it follows from the base, the ledger and the records."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of the state as 64 hex digits, which every entry that changes it keeps."""

    @abstractmethod
    def attach(self, editable: EditableModel) -> None:
        """Let the model show this state and nothing of the one it showed before; the base state restores the base."""

    def apart(self, editable: EditableModel) -> EditableModel:
        """A model of its own that shows this state and shares every other tensor with `editable`."""
        other = editable.sharing({})
        self.attach(other)
        return other


@dataclass(frozen=True)
class Head:
    """Where a store stands: its entries, the history they tell, and the state; None without a model."""

    entries: tuple[Entry, ...]
    history: History
    state: State | None

    @property
    def last(self) -> Entry:
        """The newest entry."""
        return self.entries[-1]

    @property
    def recorded(self) -> str:
        """The digest recorded for the state: that of the base before the first edit."""
        digest = next((entry.weights for entry in reversed(self.entries) if entry.weights), None)
        digest = digest or self.entries[0].body["base_weights"]
        if not isinstance(digest, str):
            raise StoreCorrupt(
                "The first entry does not say what the base weights are. Restore the ledger from a backup."
            )
        return digest

    @property
    def seq(self) -> int:
        """The seq that the next entry will have."""
        return self.last.seq + 1


@dataclass(frozen=True)
class Change:
    """What an entry of kind `kind` would say, and what would be so after it; nothing is committed yet.

    `rewritten` are the facts for which a value had to be found anew although none of them is new.
    """

    kind: str
    body: dict[str, Any]
    history: History
    state: State
    rewritten: tuple[str, ...] = ()


@dataclass(frozen=True)
class How:
    """How a batch is written: a method's name, and what the entry keeps of its parameters."""

    method: str
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Near:
    """Two facts of different slots whose keys at `weight` are nearly parallel, by their whitened cosine.

    With keys that near, `apart` is the share of what is to tell the two values apart that the ridge lets through; with
    a ridge of 0 all of it, by a change that is larger by about 1 / (1 - |cosine|).
    """

    weight: str
    earlier: str
    later: str
    cosine: float
    apart: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What the commits would take: `seconds`, from `timed` values that were optimised to see how long one takes.

    `disk` is what they add to the store; `memory` what model and store hold afterwards, without activations. Bytes.
    """

    seconds: float
    timed: int
    disk: int
    memory: int


@dataclass(frozen=True)
class Forecast:
    """The numbers of commits that nobody made: values to optimise, keys that nearly collide, room, cost.

    `capacity` is, to each edited weight, the share of its directions that facts take up, now and after.
    """

    values: int = 0
    near: tuple[Near, ...] = ()
    capacity: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    cost: Cost | None = None


@dataclass(frozen=True)
class Rehearsed:
    """A history with entries that nobody wrote: to each new value its seq and the ids it would be optimised for."""

    history: History
    seq: int
    kind: str = "edit"
    groups: tuple[tuple[int, tuple[str, ...]], ...] = ()

    def then(self, body: dict[str, Any]) -> Rehearsed:
        """With one more entry, of this body."""
        seq = self.seq + 1
        after = self.history.then(seq, self.kind, body)
        slots = after.slots()
        groups = [list(slots[slot]) for slot, chain in after.chains().items() if not chain]
        history = after.holding(seq, groups)
        return Rehearsed(history, seq, self.kind, (*self.groups, *((seq, tuple(group)) for group in groups)))

    @property
    def leaders(self) -> list[EditRequest]:
        """A request of every new value's slot: all of a slot have one key."""
        return [self.history.facts[ids[0]].request for _, ids in self.groups]


Weigh = Callable[[Change], tuple[Change, Effect]]
"""Measures a refit: the change with scores in its body, and what it does to efficacy and drift."""


class Kind(ABC):
    """One kind of memory at work: a store's records, and the model they change.

    `promise` says what taking facts out means, `exports` as what a store can leave this library: "weights" (a plain
    checkpoint), "adapter" (low-rank factors), or nothing. `needs_...` say what is taken from generic text at `create`.
    """

    name: ClassVar[str]
    promise: ClassVar[Promise]
    exports: ClassVar[tuple[str, ...]] = ()
    needs_moments: ClassVar[bool] = False
    needs_sensitivities: ClassVar[bool] = False

    def __init__(
        self, store: Store, entries: Sequence[Entry], settings: EditorSettings, editable: EditableModel
    ) -> None:
        self.store, self.settings = store, settings
        self.init = entries[0].body
        self.contexts: tuple[str, ...] = tuple(self.init["contexts"])
        self.recipe = settings.recipe
        self.forms = self.recipe.forms(self.contexts)
        self.live = editable
        self.base = self.unedited(editable)
        self._bench = self.base.apart(editable).tokenized_by(copy.deepcopy(editable.tokenizer))
        self._alone = threading.RLock()
        self._asked: list[State] = []  # the states of the `showing` blocks we are in, innermost last
        self._shown: State | None = None

    # What a kind is.

    @classmethod
    @abstractmethod
    def pin(
        cls,
        editable: EditableModel,
        settings: EditorSettings,
        method: str,
        moments: Mapping[int, bytes],
        objects: ObjectStore,
    ) -> dict[str, Any]:
        """What the first entry keeps, `base_weights`, the base state's digest, among it; files go into `objects`.

        `method` is what the store is made for, `moments` are files of second moments by layer, for a kind that
        `needs_moments`.
        """

    @classmethod
    @abstractmethod
    def check_record(cls, data: bytes) -> tuple[str, ...]:
        """The ids of the facts that a record is of; `StoreCorrupt` when it cannot be one of this kind."""

    @abstractmethod
    def unedited(self, editable: EditableModel) -> State:
        """The state of a model without edits."""

    @abstractmethod
    def fold(self, history: History, start: State) -> State:
        """The state a history leads to, from ledger and records alone; `start` is one whose parts may be used again."""

    @abstractmethod
    def choose(self, method: str, ridge: float | None, count: int, protecting: bool = False) -> How:
        """How a method writes a batch of `count` facts; `RequestError` for a method or a size that does not fit."""

    @abstractmethod
    def write(self, head: Head, kind: str, body: dict[str, Any], how: How | None = None) -> Change:
        """Work out what an entry does: facts put in, taken out or brought back. Nothing is committed."""

    @abstractmethod
    def record(self, change: Change, facts: Sequence[str]) -> bytes:
        """The record of a change as a file; `facts` are the ids its entry names."""

    @abstractmethod
    def distances(self, one: State, other: State) -> dict[str, float]:
        """How far two states are apart at each edited place, relative to the size of the base there."""

    # What every kind may know better than this.

    def folded(self, history: History, digest: str) -> State:
        """The state of a store that is opened, whose digest should be this one."""
        return self.fold(history, self.base)

    def taken(self, entry: Entry, change: Change) -> None:
        """A change was committed as `entry`."""
        return None
        return None

    def survival(self, before: State, after: State) -> dict[str, float]:
        """To each edited weight the share of a change that the live dtype keeps; refuses what it cannot hold."""
        return {}

    def told(self, head: Head, change: Change) -> dict[str, Any]:
        """What the entry of a change keeps beside its facts, such as telemetry; no forward pass."""
        return {}

    def signs(self, state: State) -> dict[str, float]:
        """The vital signs that a state has without a forward pass."""
        return {}

    def figures(self, state: State) -> list[tuple[str, float, float | None]]:
        """Figures of drift that a state has without a forward pass: name, value, and the base's."""
        return []

    def residuals(self, history: History, state: State) -> dict[str, float]:
        """To the active facts how much of what they were to change is missing, 0 to about 1; no forward pass."""
        return {}

    def risks(self, history: History, state: State) -> dict[str, float]:
        """To the active facts how likely each is forgotten, above 0 worth asking; no forward pass."""
        return {}

    def shifts(self, head: Head, change: Change, facts: Sequence[str]) -> dict[str, float]:
        """How much a change moves what is held of other facts, predicted without a forward pass.

        Zero here: for kinds whose facts do not touch each other.
        """
        return dict.fromkeys(facts, 0.0)

    def recomputed(self, head: Head, change: Change) -> tuple[int, ...]:
        """The seqs of the entries whose part is another one after a change."""
        return ()

    def replay(self, entries: Sequence[Entry], every: bool) -> Iterator[tuple[Entry, State | None, Deviation]]:
        """Go through the entries after the first, and fold anew after every one that changed the state, or the last.

        Gives entry, state (None where nothing was folded) and how far the fold is from the recorded changes, added up.
        """
        history, state = History.of(entries[:1]), self.base
        changing = [entry.seq for entry in entries if entry.weights]
        for entry in entries[1:]:
            history = history.then(entry.seq, entry.kind, entry.body)
            folds = bool(entry.weights) and (every or entry.seq == changing[-1])
            state = self.fold(history, state) if folds else state
            yield entry, state if folds else None, Deviation()

    def key_drift(self, head: Head) -> dict[str, float]:
        """To each edited weight the largest relative difference between a recorded key and the key now."""
        return {}

    def forecast(self, head: Head, rehearsed: Rehearsed, how: How) -> Forecast:
        """The numbers of commits that nobody made."""
        return Forecast()

    def kept(self, head: Head) -> None:
        """The store is closed: what the next open can use may be kept in its cache."""
        return None
        return None

    # What only some kinds can do.

    @property
    def relaxes(self) -> bool:
        """Whether facts that fade can be brought back by `relaxed`."""
        return False

    def check_protectable(self) -> None:
        """Raise `RequestError` when edits cannot be kept off facts of the base."""
        self._lacks("hold facts of the base in place")

    def relaxed(self, head: Head, body: Mapping[str, Any], halvings: int) -> Change | None:
        """The facts that fade, held more strongly; None where none of them responds."""
        self._lacks("relax")

    def repaired(self, head: Head, body: Mapping[str, Any], weigh: Weigh) -> tuple[Change, Effect]:
        """All that stands, solved anew together."""
        self._lacks("repair")

    def telemetry(self, state: State) -> dict[str, Any]:
        """Figures of every edited weight and fact by weight; no forward pass."""
        self._lacks("tell its telemetry")

    def deltas(self, state: State) -> dict[str, Any]:
        """What a state adds to each weight, as thin pairs [d_out, r], [d_in, r]."""
        self._lacks("be told as low-rank changes of weights")

    def shares(self, head: Head, prompt: str) -> tuple[dict[str, float], float]:
        """To each slot its part of what the edits do on a prompt; and how much they do at all."""
        self._lacks("blame facts for an answer")

    def suspects(self, head: Head, fact: str) -> tuple[dict[int, float], int, float]:
        """To each entry its part of what is missing of a fact; the fact's own entry; how much is missing."""
        self._lacks("name the entry that made the model forget")

    def own_stages(self, head: Head, fact: str) -> tuple[Stage, ...]:
        """How a fact fares by itself: its target before anything is written, and what holds it and nothing else."""
        self._lacks("tell where a fact is lost")

    def held_by(self, head: Head, seq: int) -> set[str]:
        """The active facts that what an entry recorded holds now."""
        self._lacks("say which entry holds a fact")

    def without(self, head: Head, slot: str | None = None, seq: int | None = None) -> State:
        """The state with a slot, or all of an entry, left out, everything else as it was recorded."""
        self._lacks("leave facts out on trial")

    def at_ridge(self, head: Head, ridge: float) -> State:
        """The state as it would be had all facts been written with this relative ridge, their targets as they are."""
        self._lacks("write its facts with another ridge")

    def _lacks(self, what: str) -> NoReturn:
        raise RequestError(f"A store of kind {self.name} cannot {what}. Other kinds of memory can; see docs/kinds.md.")

    # The model to work on.

    @property
    def bench(self) -> EditableModel:
        """A model of the kind's own, with its own tokenizer, which shares all but the edited tensors with the live one.

        All trials run on it, so that who serves the live model meets no half-made edit. It is made when the store is
        opened, before anybody can be using the live model's tokenizer.
        """
        return self._bench

    @contextmanager
    def showing(self, state: State) -> Iterator[EditableModel]:
        """The bench, while it shows this state; other threads wait for it."""
        with self._alone:
            self._asked.append(state)
            try:
                self._show(state)
                yield self.bench
            finally:
                self._asked.pop()
                if self._asked:
                    self._show(self._asked[-1])

    def apart(self, state: State) -> EditableModel:
        """A model that shows this state for good, for whoever serves it, with the live model's tokenizer."""
        with self._alone:  # it is copied off the bench, where no other thread hangs hooks
            return state.apart(self.bench).tokenized_by(self.live.tokenizer)

    def _show(self, state: State) -> None:
        if self._shown is not state:
            self._shown = None  # an interrupted attachment leaves nobody knows what
            state.attach(self.bench)
            self._shown = state
