"""What one can ask of an open store and its model, every dry run among it; nothing here changes the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from lifelong_edit.algebra.telemetry import Telemetry
from lifelong_edit.datasets.jsonl import SourcedRequest
from lifelong_edit.defaults import EFFICACY, HALVINGS, METHOD
from lifelong_edit.editing.second_moments import Progress
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine.change import bodies
from lifelong_edit.engine.change.budget import default_limits, health
from lifelong_edit.engine.change.commit import BlastRadius, Commit, described, predicted
from lifelong_edit.engine.change.refit import weighed
from lifelong_edit.engine.estimate.evaluate import Scored, evaluate, honest
from lifelong_edit.engine.estimate.preview import Preview, preview
from lifelong_edit.engine.estimate.sources import Survey
from lifelong_edit.engine.inspect.blame import Blame, Forgotten, blame, forgotten
from lifelong_edit.engine.inspect.doctor import Finding, examine
from lifelong_edit.engine.inspect.verify import Audit, audit
from lifelong_edit.engine.inspect.views import Diff, View, difference, view_at
from lifelong_edit.engine.inspect.why import Why, why
from lifelong_edit.engine.measure.noise import noise_of
from lifelong_edit.engine.state.create import Model, opened
from lifelong_edit.engine.state.session import Observer, Session
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kind import Change, Head, Kind, State
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store import Copied, Entry, FactLife, Store, backup, clone
from lifelong_edit.tracking.budget import Scope
from lifelong_edit.tracking.health import Health, HealthLimits
from lifelong_edit.tracking.honest import HonestScores
from lifelong_edit.tracking.retention import RetentionMatrix
from lifelong_edit.tracking.scores import Figure, measurements, scored
from lifelong_edit.tracking.unsaid import unsaid

Opened = TypeVar("Opened", bound="Reader")


class Reader:
    """An open store, with or without its model: its history, older states, and whether all of it is sound.

    Facts are named by their id or the beginning of it, entries by seq, tag or the beginning of their digest.
    """

    def __init__(self, store: Store, editable: EditableModel | None, at: int | str | None = None) -> None:
        try:
            self._session = Session(store, editable, at)
        except BaseException:
            store.close()
            raise

    @classmethod
    def open(
        cls: type[Opened],
        path: str | Path,
        model: Model | None = None,
        read_only: bool = False,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        at: int | str | None = None,
    ) -> Opened:
        """The store in `path`. Without `model`, the unedited base, only the history can be read.

        With `at` the model shows the state after that entry, as after `checkout(at)`; so a store can be opened although
        a later record is damaged, which is otherwise `StoreCorrupt`. Raises `ModelMismatch` before anything is written
        when the model is not the one the store was made with.
        """
        editable = None if model is None else opened(model, dtype, device)
        return cls(Store.open(Path(path), read_only=read_only or model is None), editable, at)

    @property
    def model(self) -> PreTrainedModel:
        """The live edited model."""
        return self.editable.model

    @property
    def editable(self) -> EditableModel:
        """The live edited model with its tokenizer and its edited layers."""
        return self._session.editable

    @property
    def store(self) -> Store:
        """The store on disk: its layout, ledger and objects."""
        return self._session.store

    @property
    def kind(self) -> Kind:
        """The kind of memory at work; `RequestError` when the store was opened without a model."""
        return self._session.kind

    @property
    def state(self) -> State:
        """What the active facts have made of the model: a value, with a digest."""
        return self._session.state

    @property
    def standing(self) -> Head:
        """Where the store stands: its entries, the history they tell, and the state."""
        return self._session.head

    @property
    def settings(self) -> EditorSettings:
        """What the store was pinned to when it was made."""
        return self._session.settings

    @property
    def contexts(self) -> tuple[str, ...]:
        """The prefixes that edits are made to hold behind."""
        return self._session.contexts

    @property
    def head(self) -> Entry:
        """The newest entry. Its digest, kept elsewhere, proves later that nothing up to it was changed."""
        return self._session.head.last

    def history(self) -> list[Entry]:
        """Every ledger entry, oldest first."""
        return list(self._session.head.entries)

    def facts(self) -> dict[str, FactLife]:
        """Every fact ever written, by id, in ledger order, with its present status."""
        return dict(self._session.head.history.facts)

    def at(self, ref: int | str) -> View:
        """The state after an entry, read-only, with a model of its own that shares all unedited tensors."""
        return view_at(self._session, self._session.seq(ref))

    def checkout(self, ref: int | str | None = None) -> None:
        """Let the live model show the state after an entry, or the head again. Edits are refused away from the head."""
        self._session.checkout(None if ref is None else self._session.seq(ref))

    def diff(self, a: int | str, b: int | str, prompts: Sequence[str] | None = None) -> Diff:
        """What two states differ in: facts, weights, and answers to `prompts`, by default those of the facts."""
        return difference(self._session, self._session.seq(a), self._session.seq(b), prompts)

    def blame(self, prompt: str, count: int = 5) -> Blame:
        """The facts whose keys explain what the model says to a prompt, each confirmed by leaving it out."""
        return blame(self._session, prompt, count)

    def forgotten(self, fact: str) -> Forgotten:
        """Which later edit is behind what the model no longer says of a fact, confirmed by leaving that edit out."""
        return forgotten(self._session, fact)

    def why(self, fact: str) -> Why:
        """Where a fact is lost on its way from the target to other words, with the setting that would mend it."""
        return why(self._session, fact)

    def retention(self, metric: str = EFFICACY) -> RetentionMatrix:
        """How the facts of every edit fared over time, as measured at the edit and by `measure`; needs no model."""
        return RetentionMatrix.of(measurements(self.history(), metric))

    def telemetry(self) -> dict[str, Telemetry]:
        """What stored keys and values say of every edited layer and fact now, by weight; no forward pass."""
        self._session.at_head()
        return self._session.kind.telemetry(self._session.state)

    def residuals(self) -> dict[str, float]:
        """To every active fact how much of what it was to change is missing, 0 to about 1, for keys as recorded."""
        self._session.at_head()
        return self._session.kind.residuals(self._session.head.history, self._session.state)

    def risks(self) -> dict[str, float]:
        """To every active fact how likely it is forgotten, by stored keys and values: above 0 it is worth asking.

        At least 1 for those in `unsaid()`, which the model is known not to say; `kind.risks` has the prediction alone.
        """
        self._session.at_head()
        risks = self._session.kind.risks(self._session.head.history, self._session.state)
        return risks | {id: max(1.0, risks.get(id, 1.0)) for id in self.unsaid()}

    def unsaid(self) -> dict[str, int]:
        """The active facts that the model did not say when last asked, each with the seq of that entry; needs no model.

        A fact is asked at its own commit, by `measure`, budgets and refits, and when a later edit moves it most.
        """
        return unsaid(self._session.head.entries, self._session.head.history.active)

    def scores(self, metrics: Sequence[str] = (EFFICACY,), scope: Scope | None = None) -> dict[str, Figure]:
        """Figures of some of the active facts as the model says them now, by metric; nothing is written."""
        with self._session.kind.showing(self._session.state) as editable:
            return scored(editable, self._in_scope(scope, self.settings.seed), metrics)

    def evaluate(self, metrics: Sequence[str] = (EFFICACY,), scope: Scope | None = None) -> list[Scored]:
        """Scores of the active facts in `scope`, group by group, on the base and now; nothing is written."""
        return evaluate(self._session, metrics, scope)

    def honest(self, scope: Scope | None = None, distract: str | None = None) -> HonestScores:
        """Honest scores (`tracking.honest`) of facts in `scope`: base, base with the fact in the context, and now.

        `distract` is a text that distractions are cut out of, by default the store's own prefixes; "" leaves them out.
        Nothing is written.
        """
        return honest(self._session, scope, distract)

    def preview(
        self,
        rows: Survey,
        batches: Sequence[Sequence[SourcedRequest]],
        method: str = METHOD,
        ridge: float | None = None,
        progress: Progress | None = None,
        protecting: bool = False,
    ) -> Preview:
        """What `apply` or `stream` of these batches would do, or `protect`: see `estimate.preview`."""
        if protecting:
            self._session.kind.check_protectable()
        return preview(self._session, rows, batches, method, ridge, progress, protecting)

    def preview_replace(self, fact: str, target: str, method: str = METHOD) -> Preview:
        """What `replace` would do."""
        row = SourcedRequest(bodies.replacing(self._session.head.history, fact, target), "replace", 1)
        return preview(self._session, Survey((row,), ()), [[row]], method)

    def preview_revert(self, *facts: str, commit: int | str | None = None, to: int | str | None = None) -> Commit:
        """What `revert` would do, with the predicted `radius`."""
        at, back = (None if ref is None else self._session.seq(ref) for ref in (commit, to))
        return self._previewed(
            "revert", bodies.body_of_revert(self.standing.history, self.standing.entries, facts, at, back)
        )

    def preview_restore(self, *facts: str) -> Commit:
        """What `restore` would do, with the predicted `radius`."""
        return self._previewed("restore", bodies.restore_body(self._session.head.history, facts))

    def preview_relax(self, halvings: int = HALVINGS) -> Commit:
        """What `relax` would do, with its `effect`."""
        self._session.at_head()
        change = self._session.kind.relaxed(self._session.head, {}, halvings)
        if change is None:
            return Commit(None)
        change, effect = weighed(self._session, change)
        return replace(described(change), effect=effect)

    def preview_repair(self) -> Commit:
        """What `repair` would do, with its `effect`."""
        self._session.at_head()
        change, effect = self._session.kind.repaired(self._session.head, {}, partial(weighed, self._session))
        return replace(described(change), effect=effect)

    def preview_calibrate(self, harmless: Sequence[EditRequest]) -> dict[str, float]:
        """The noise of every vital sign that `calibrate` would enter."""
        return noise_of(self._session, harmless)

    def health(self, limits: HealthLimits | None = None) -> Health:
        """How the store fares by the vital signs in its ledger, and how many edits are left; needs no model."""
        return health(self._session, limits)

    def limits(self) -> HealthLimits:
        """The default limits of health, none closer than noise: see `budget.default_limits`."""
        return default_limits(self._session)

    def verify(
        self,
        head: str | None = None,
        replay: bool = False,
        keys: bool = False,
        progress: Progress | None = None,
    ) -> Audit:
        """Check chain, objects, digests, and recorded deltas against the fold; `Audit.check` raises what was found.

        `head` is a digest kept elsewhere; `replay` folds at every seq; `keys` compares keys with those of today.
        """
        return audit(self._session, head, replay, keys, progress)

    def backup(self, destination: str | Path) -> Copied:
        """A copy of the store as it is now, or of what is new since an earlier backup in the same folder."""
        return backup(self._session.store.layout.root, Path(destination))

    def clone(self, destination: str | Path) -> Copied:
        """A store of its own in a new folder, with the history this one has now."""
        return clone(self._session.store.layout.root, Path(destination))

    def doctor(self) -> list[Finding]:
        """What is odd about the store, this machine, or the model, with advice."""
        return examine(self._session)

    def subscribe(self, observer: Observer) -> None:
        """Let `observer` be told of every entry right after it was committed, as an experiment tracker wants it."""
        self._session.observers.append(observer)

    def close(self) -> None:
        """Let the next writer in. The model keeps its edits."""
        self._session.close()

    def foretold(self, change: Change) -> BlastRadius:
        """The blast radius that stored keys predict of a change that was worked out and not committed."""
        return predicted(self._session, change)

    def _previewed(self, kind: str, body: dict[str, Any]) -> Commit:
        self._session.at_head()
        change = self._session.kind.write(self._session.head, kind, body)
        return described(change, self.foretold(change))

    def _in_scope(self, scope: Scope | None, seed: int) -> list[FactLife]:
        """The active facts that a measurement asks about."""
        return (scope or Scope()).of(list(self._session.head.history.active.values()), seed, self.risks())

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
