"""`LifelongEditor`: one model, one store; edits go in batch by batch and come out fact by fact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lifelong_edit.algebra.objective import Memory
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine.change import bodies as verbs
from lifelong_edit.engine.change import stream as streaming
from lifelong_edit.engine.change.budget import Budget, OnRed, check
from lifelong_edit.engine.change.commit import Commit, commit, commit_measured, described
from lifelong_edit.engine.change.plan import plan
from lifelong_edit.engine.change.validate import take_in
from lifelong_edit.engine.inspect.blast_radius import predicted
from lifelong_edit.engine.keeper import Keeper
from lifelong_edit.engine.state.create import Model, found, opened
from lifelong_edit.engine.state.second_moments import Progress
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.store.history import fact_named
from lifelong_edit.tracking.watch import Watch

PROBED = 20
HOLD = 0.5  # the ridge of a protected fact, in mean key masses: it is to stay, so there is nothing to spare


class LifelongEditor(Keeper):
    """Streams edits into a causal language model and keeps every one of them in a store.

    Make one with `create` or `open`; close it, or use it as a context manager. `model` is the live edited model. What
    one can ask of a store without changing it is in `Reader`, how to look after it in `Keeper`.
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: Model,
        settings: EditorSettings | None = None,
        text: Sequence[str] | None = None,
        actor: str | None = None,
        reason: str | None = None,
        progress: Progress | None = None,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        watch: Watch | None = None,
        protect: Sequence[EditRequest] = (),
    ) -> LifelongEditor:
        """A new store in the new or empty folder `path`, for `model`: a folder, an `EditableModel` or a loaded pair.

        A folder is loaded onto `device`, in its own dtype unless one is given; float32 keeps small edits that bfloat16
        rounds off. A model given as an object is frozen and put into evaluation mode. `text` is generic text to take
        second moments from; without it those beside the model are used. `progress` is told how many of the wanted
        tokens were read; an interrupted `create` goes on where it was. `watch` names facts and texts that edits are to
        leave alone: what a health budget is read on. `protect` are requests whose prompts' answers must not move: their
        keys are mixed into the second moments, so every edit spares them (see also the verb `protect`).
        """
        editable = opened(model, dtype, device)
        beside = Path(model) if isinstance(model, (str, Path)) else None
        store = found(
            Path(path), editable, beside, settings or EditorSettings(), text, actor, reason, progress, watch, protect
        )
        return cls(store, editable)

    def apply(
        self,
        requests: Iterable[EditRequest],
        method: str = "memit",
        ridge: float | None = None,
        actor: str | None = None,
        reason: str | None = None,
        budget: Budget | None = None,
    ) -> Commit:
        """Write one batch of facts into the model: one record, one ledger entry.

        An active fact with the same prompt and subject is superseded. Facts about one subject whose prompts begin alike
        share a value, which is optimised for all of them. `ridge` is absolute, overrides the method's own, and is not
        halved. Requests whose id is known are skipped. Raises `RequestError` before any computation, `SolveError`
        naming facts, `HealthStop` when the edit would be over the budget; model and store are then as before.
        """
        return self._edit("edit", list(requests), method, ridge, actor, reason, budget)

    def replace(
        self, fact: str, target: str, method: str = "memit", actor: str | None = None, reason: str | None = None
    ) -> Commit:
        """Give an active fact another target: a new fact, which supersedes it. Reverting the new one brings it back."""
        old = fact_named(self._session.head.history.facts, fact)
        if old.status != "active":
            raise RequestError(
                f"fact {old.id!r} is {old.status} since seq {old.since}. Restore it, or apply a new one."
            )
        request = EditRequest.from_dict({**old.request.to_dict(), "id": None, "target_new": target})
        return self._edit("replace", [request], method, None, actor, reason)

    def protect(
        self,
        requests: Iterable[EditRequest],
        method: str = "memit",
        ridge: float | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Commit:
        """Let later edits leave these facts of the base alone: columns of the system that ask for no change.

        `target_new` is what the base answers. A fact costs as much of the layer's capacity as an edit does. It is
        reverted, restored and superseded like one. `RequestError` in batch memory, which has no regard for earlier
        columns.
        """
        if self.settings.memory != Memory.joint:
            raise RequestError("Batch memory treats earlier columns as finished. Protection needs joint memory.")
        return self._edit("protect", list(requests), method, ridge, actor, reason)

    def stream(
        self,
        source: str | Path,
        batch: int = 10,
        method: str = "memit",
        ridge: float | None = None,
        actor: str | None = None,
        reason: str | None = None,
        budget: Budget | None = None,
        relax: int = 10,
    ) -> Iterator[Commit]:
        """Apply a JSON-lines file, or standard input ("-"), `batch` requests a commit; yields every commit.

        Started again it goes on after the last request committed: each is applied exactly once, and the weights are
        those of a run that was never interrupted. See `datasets.jsonl` for the ids of requests that bring none. With a
        `budget` the vital signs are read on a schedule, and a red one warns, ends the stream with `HealthStop`, or lets
        the batch be tried in halves. In joint memory facts that fade are relaxed after every `relax` edits; 0 is never.
        """

        def apply_under(budget: Budget | None) -> streaming.Apply:
            return lambda requests: self.apply(requests, method, ridge, actor, reason, budget)

        halves = apply_under(replace(budget, every=1)) if budget and budget.on_red == OnRed.halve else None
        eases = self.settings.memory == Memory.joint and self.settings.halvings and relax
        keep = streaming.every(relax, self._session, lambda: self.relax(actor=actor)) if eases else None
        return streaming.stream(source, batch, apply_under(budget), halves, keep)

    def revert(
        self,
        *facts: str,
        commit: int | str | None = None,
        to: int | str | None = None,
        probe: int = PROBED,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Commit:
        """Take facts out, all of one entry, or all that changed after entry `to`, in any order.

        The weights become those of the same stream without them, every other fact with the key and value it was
        written with. What they superseded is active again. The commit has a `radius`: the predicted change of every
        other active fact, and for the `probe` most affected the scores before and after.
        """
        self._session.writable()
        body = self._revert_body(facts, commit, to, actor, reason)
        return commit_measured(self._session, plan(self._session, "revert", body), probe)

    def preview_revert(self, *facts: str, commit: int | str | None = None, to: int | str | None = None) -> Commit:
        """What `revert` would do, with the predicted `radius`; neither store nor model is changed."""
        self._session.at_head()
        change = plan(self._session, "revert", self._revert_body(facts, commit, to, None, None))
        return described(change, predicted(self._session, change))

    def restore(self, *facts: str, probe: int = PROBED, actor: str | None = None, reason: str | None = None) -> Commit:
        """Make reverted or superseded facts active again, as they were; another answer to the prompt is superseded."""
        self._session.writable()
        body = verbs.restore_body(self._session.head.history, facts)
        signed = {**self._signed(actor, reason), **body}
        return commit_measured(self._session, plan(self._session, "restore", signed), probe)

    def _edit(
        self,
        kind: str,
        requests: list[EditRequest],
        method: str,
        ridge: float | None,
        actor: str | None,
        reason: str | None,
        budget: Budget | None = None,
    ) -> Commit:
        chosen, session = self.settings.method(method), self._session
        if kind == "protect":
            chosen = replace(chosen, relative_ridge=min(chosen.relative_ridge, HOLD))
        editable = session.writable()
        batch = take_in(editable, session.contexts, session.head.history.facts, requests)
        if not batch.requests:
            return Commit(None, skipped=batch.skipped)
        chosen.check_batch(len(batch.requests))
        ridges = chosen.ridges(session.init["calibration"], ridge)
        hyperparameters = {"ridge": ridges, **session.settings.to_dict()}
        about = {"method": method, "hyperparameters": hyperparameters, **batch.body()}
        halvings = self.settings.halvings if ridge is None else 0
        change = plan(session, kind, {**self._signed(actor, reason), **about}, ridges, halvings)
        if budget and budget.due(session.head.entries):
            change = replace(change, body={**change.body, **check(session, change, budget)})
        return commit(session, change, batch.contents(), batch.skipped)

    def _revert_body(
        self,
        facts: Sequence[str],
        commit: int | str | None,
        to: int | str | None,
        actor: str | None,
        reason: str | None,
    ) -> dict[str, Any]:
        history = self._session.head.history
        if sum((bool(facts), commit is not None, to is not None)) != 1:
            raise RequestError("Name the facts to revert, or one commit, or the seq to go back to (to=...).")
        if to is not None:
            body = verbs.revert_to_body(self._session.head.entries, self._session.seq(to))
        else:
            names, seq = facts, None if commit is None else self._session.seq(commit)
            if seq is not None and seq in history.refits:
                body = verbs.withdraw_body(history, seq)
            else:
                body = verbs.revert_body(history, names if seq is None else verbs.facts_of(history, seq))
        return {**self._signed(actor, reason), **body}
