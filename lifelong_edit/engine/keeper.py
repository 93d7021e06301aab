"""Looking after a store: what changes no fact, but measures them, holds them better, or clears up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lifelong_edit.engine.change.budget import Budget, check
from lifelong_edit.engine.change.commit import Commit, commit, described
from lifelong_edit.engine.change.plan import Change
from lifelong_edit.engine.change.refit import HALVINGS, Effect, improves, relaxed, repaired, weighed
from lifelong_edit.engine.measure.noise import noise_of
from lifelong_edit.engine.measure.scores import EFFICACY, Scope, scored, scores_body
from lifelong_edit.engine.measure.vital_signs import drift_row, drift_rows, task_rows
from lifelong_edit.engine.reader import Reader
from lifelong_edit.engine.state.provenance import signed
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import Entry, Stray, collect_garbage, list_strays
from lifelong_edit.store.history import check_tag
from lifelong_edit.tracking.figures import Figure


class Keeper(Reader):
    """The verbs that leave all facts as they are. Refits change how the weights hold them, and can be reverted."""

    def tag(self, name: str, at: int | str | None = None, actor: str | None = None, reason: str | None = None) -> Entry:
        """Name an entry, by default the newest, for `at`, `checkout`, `diff` and `revert(to=...)`."""
        seq = self.head.seq if at is None else self._session.seq(at)
        check_tag(self.history(), name)
        return self._session.note("tag", {**self._signed(actor, reason), "tag": name, "target": seq})

    def measure(
        self,
        metrics: Sequence[str] = (EFFICACY,),
        scope: Scope | None = None,
        drift: bool = False,
        actor: str | None = None,
        reason: str | None = None,
        tasks: Mapping[str, Sequence[tuple[str, str]]] | None = None,
        figures: Mapping[str, Figure] | None = None,
    ) -> Entry:
        """Score some of the active facts on the live model and enter it into the ledger, where `retention` reads it.

        With `drift` also how far the model has moved from its base: on the store's watch, and in its weights. `tasks`
        are lists of (prompt, answer), asked of the base too; `figures` were measured elsewhere, by
        `tracking.harness` say, and are entered beside them.
        """
        session = self._session
        session.writable()
        facts = self._in_scope(scope, self.settings.seed + self.head.seq)
        body = scores_body(facts, scored(session, facts, metrics))
        rows = drift_rows(session) if drift else []
        rows += task_rows(session, tasks or {}) + [
            drift_row(name, figure, None) for name, figure in (figures or {}).items()
        ]
        body |= {"drift": rows} if rows else {}
        return session.note("measure", {**self._signed(actor, reason), **body})

    def calibrate(self, harmless: Iterable[EditRequest], actor: str | None = None, reason: str | None = None) -> Entry:
        """Let the default limits of health keep off what edits known to be harmless do to the signs.

        Each of the requests is tried alone and not committed; the largest of every sign is the noise that is entered
        into the ledger, and no limit is closer than three times that.
        """
        session = self._session
        session.writable()
        return session.note("measure", {**self._signed(actor, reason), "noise": noise_of(session, list(harmless))})

    def relax(
        self,
        halvings: int = HALVINGS,
        budget: Budget | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Commit:
        """Bring facts back that the model says no longer, or less confidently than the store wants: halve their ridges.

        No ridge falls below that which its fact was written with, halved `halvings` times; facts that do not come back
        keep theirs. Joint memory only. Where no fact can be brought back, the commit has no entry.
        `revert(commit=...)` undoes it.
        """
        self._session.writable()
        change = relaxed(self._session, self._signed(actor, reason), halvings)
        if change is None:
            return Commit(None)
        change, effect = weighed(self._session, change)
        if effect[EFFICACY][1] < effect[EFFICACY][0]:  # what came back cost others
            return replace(described(change), effect=effect)
        if budget:
            change = replace(change, body={**change.body, **check(self._session, change, budget)})
        return self._refitted(change, effect)

    def repair(self, actor: str | None = None, reason: str | None = None) -> Commit:
        """Solve all batches of a store in batch memory together, from their stored keys and values.

        It is committed only where the model then says more of the active facts and is nearer to its base; otherwise
        the commit has no entry, and its `effect` says why. `revert(commit=...)` undoes it.
        """
        self._session.writable()
        change, effect = repaired(self._session, self._signed(actor, reason))
        return self._refitted(change, effect) if improves(effect) else replace(described(change), effect=effect)

    def gc(self, dry_run: bool = False) -> tuple[Stray, ...]:
        """Remove, or only list, the files that crashes and interrupted commits left."""
        return list_strays(self._session.store) if dry_run else collect_garbage(self._session.store)

    def _refitted(self, change: Change, effect: Effect) -> Commit:
        return replace(commit(self._session, change, {}), effect=effect)

    def _signed(self, actor: str | None, reason: str | None) -> dict[str, Any]:
        return signed(actor, reason, self.settings.seed)
