"""`LifelongEditor`: one model, one store; edits go in batch by batch and come out fact by fact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lifelong_edit.defaults import EFFICACY, HALVINGS, METHOD, PROBED
from lifelong_edit.editing.profile import profile_for
from lifelong_edit.editing.second_moments import Progress
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine.change import bodies
from lifelong_edit.engine.change.budget import check, due
from lifelong_edit.engine.change.commit import Commit, commit, commit_measured, described
from lifelong_edit.engine.change.refit import weighed
from lifelong_edit.engine.change.stream import stream, upkeep
from lifelong_edit.engine.change.validate import take_in
from lifelong_edit.engine.measure.noise import noise_of
from lifelong_edit.engine.measure.vital_signs import drift_row, drift_rows, task_rows
from lifelong_edit.engine.reader import Reader
from lifelong_edit.engine.state.create import Model, found, opened, sibling
from lifelong_edit.engine.state.session import signed
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds import DEFAULT
from lifelong_edit.kinds.kind import Change, Effect, improves
from lifelong_edit.store import Entry, Stray, collect_garbage, list_strays
from lifelong_edit.store.history import check_tag
from lifelong_edit.tracking.budget import Budget, OnRed, Scope
from lifelong_edit.tracking.scores import Figure, scored, scores_body
from lifelong_edit.tracking.unsaid import OnFail, condemned
from lifelong_edit.tracking.watch import Watch


class LifelongEditor(Reader):
    """Streams edits into a causal language model and keeps every one of them in a store.

    Make one with `create` or `open`; close it, or use it as a context manager. `model` is the live edited model. What
    one can ask of a store without changing it, dry runs among it, is in `Reader`.
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
        memory_kind: str = DEFAULT,
        method: str = METHOD,
        prompts: Sequence[str] | None = None,
        profile: str | Path | None = None,
    ) -> LifelongEditor:
        """A new store in the new or empty folder `path`, for `model`: a folder, an `EditableModel` or a loaded pair.

        What `settings` leave open is taken from `profile`, a file or the name of one that ships with the package, by
        default from that in the model's folder (`lifelong_edit.json`), if there is one.
        A folder is loaded onto `device`, in its own dtype unless one is given; float32 keeps small edits that bfloat16
        rounds off. A model given as an object is frozen and put into evaluation mode. `text` is generic text to take
        second moments from; without it those beside the model are used. `progress` is told how many of the wanted
        tokens were read; an interrupted `create` goes on where it was. `watch` names facts and texts that edits are to
        leave alone: what a health budget is read on. `protect` are requests whose prompts' answers must not move: their
        keys are mixed into the second moments, so every edit spares them (see also the verb `protect`). `memory_kind`
        is what holds the facts: see `lifelong_edit.kinds`. `method` is one whose metric the store is pinned to; all
        methods of that metric can be used. `prompts` are true statements of the domain that is edited, each a prompt
        with its answer: they become `settings.prompt_share` of the second moments, shipped ones too.
        """
        editable = opened(model, dtype, device)
        beside = Path(model) if isinstance(model, (str, Path)) else None
        suiting, given = profile_for(beside, profile), settings or EditorSettings()
        store = found(
            Path(path), editable, beside, given, text, actor, reason, progress, watch, protect, memory_kind, method,
            prompts, suiting,
        )  # fmt: skip
        return cls(store, editable)

    def sibling(
        self, path: str | Path, settings: EditorSettings, actor: str | None = None, reason: str | None = None
    ) -> LifelongEditor:
        """A new store without facts, for the same model under other settings of layers that this store edits.

        Second moments, sensitivities and prefixes are copied, so it takes seconds; what of the settings they were made
        with stays. Its live model is one of its own, which shares all unedited tensors with this one.
        """
        base = self.kind.apart(self.kind.base)
        return LifelongEditor(sibling(Path(path), self._session, base, settings, actor, reason), base)

    def apply(
        self,
        requests: Iterable[EditRequest],
        method: str = METHOD,
        ridge: float | None = None,
        actor: str | None = None,
        reason: str | None = None,
        budget: Budget | None = None,
        on_fail: OnFail | str = OnFail.keep,
    ) -> Commit:
        """Write one batch of facts into the model: one record, one ledger entry.

        An active fact with the same prompt and subject is superseded. Facts about one subject whose prompts begin alike
        share a value, which is optimised for all of them. `ridge` is absolute, overrides the method's own, and is not
        halved. Requests whose id is known are skipped. Raises `RequestError` before any computation, `SolveError`
        naming facts, `HealthStop` when the edit would be over the budget; model and store are then as before. Facts
        that the model does not say afterwards are in the commit's `failed`; `on_fail` says what becomes of them:
        "keep", "revert" by a second entry, or "stop", which raises `NotSaid` behind the commit.
        """
        return self._edit("edit", list(requests), method, ridge, actor, reason, on_fail, budget)

    def replace(
        self,
        fact: str,
        target: str,
        method: str = METHOD,
        actor: str | None = None,
        reason: str | None = None,
        on_fail: OnFail | str = OnFail.keep,
    ) -> Commit:
        """Give an active fact another target: a new fact, which supersedes it. Reverting the new one brings it back.

        `on_fail` is as in `apply`: "revert" lets the old fact stand where the new one is not said.
        """
        request = bodies.replacing(self._session.head.history, fact, target)
        return self._edit("replace", [request], method, None, actor, reason, on_fail)

    def protect(
        self,
        requests: Iterable[EditRequest],
        method: str = METHOD,
        ridge: float | None = None,
        actor: str | None = None,
        reason: str | None = None,
        on_fail: OnFail | str = OnFail.keep,
    ) -> Commit:
        """Let later edits leave these facts of the base alone: columns of the system that ask for no change.

        `target_new` is what the base answers. A fact costs as much of the layer's capacity as an edit does. It is
        reverted, restored and superseded like one. `RequestError` in batch memory, which has no regard for earlier
        columns. `on_fail` is as in `apply`, for facts to which the model answers otherwise than the base.
        """
        self._session.kind.check_protectable()
        return self._edit("protect", list(requests), method, ridge, actor, reason, on_fail)

    def stream(
        self,
        source: str | Path,
        batch: int = 10,
        method: str = METHOD,
        ridge: float | None = None,
        actor: str | None = None,
        reason: str | None = None,
        budget: Budget | None = None,
        relax: int = 10,
        on_fail: OnFail | str = OnFail.keep,
    ) -> Iterator[Commit]:
        """Apply a JSON-lines file, or standard input ("-"), `batch` requests a commit; yields every commit.

        Started again it goes on after the last request committed: each is applied exactly once, and the weights are
        those of a run that was never interrupted. See `datasets.jsonl` for the ids of requests that bring none. With a
        `budget` the vital signs are read on a schedule, and a red one warns, ends the stream with `HealthStop`, or lets
        the batch be tried in halves. What was refused is read whenever it comes again. In joint memory facts that fade
        are relaxed under the same budget: after every `relax` edits, once one costs older facts, and at the end when a
        fact is not said; 0 is never. `on_fail` is as in `apply`: "stop" ends the stream with `NotSaid` behind the
        commit, and a stream that is started again goes on there.
        """
        stop = OnFail(on_fail) == OnFail.stop
        wanted = OnFail.keep if stop else on_fail  # who listens is given the commit before the stream ends

        def apply(requests: Sequence[EditRequest], refused: Sequence[str]) -> Commit:
            return self._edit("edit", requests, method, ridge, actor, reason, wanted, budget, refused)

        halve = budget is not None and budget.on_red == OnRed.halve
        keep = None
        if relax and self._session.kind.relaxes:
            keep = upkeep(relax, self._session, lambda: self.relax(budget=budget, actor=actor, reason=reason))
        return stream(source, batch, self._session, apply, halve, keep, stop)

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
        at, back = (None if ref is None else self._session.seq(ref) for ref in (commit, to))
        body = bodies.body_of_revert(self._session.head.history, self._session.head.entries, facts, at, back)
        return self._measured("revert", {**self._signed(actor, reason), **body}, probe)

    def restore(self, *facts: str, probe: int = PROBED, actor: str | None = None, reason: str | None = None) -> Commit:
        """Make reverted or superseded facts active again, as they were; another answer to the prompt is superseded."""
        self._session.writable()
        body = {**self._signed(actor, reason), **bodies.restore_body(self._session.head.history, facts)}
        return self._measured("restore", body, probe)

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
        with session.kind.showing(session.state) as editable:
            body = scores_body(facts, scored(editable, facts, metrics))
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
        change = self._session.kind.relaxed(self._session.head, self._signed(actor, reason), halvings)
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
        weigh = partial(weighed, self._session)
        change, effect = self._session.kind.repaired(self._session.head, self._signed(actor, reason), weigh)
        return self._refitted(change, effect) if improves(effect) else replace(described(change), effect=effect)

    def gc(self, dry_run: bool = False) -> tuple[Stray, ...]:
        """Remove, or only list, the files that crashes and interrupted commits left."""
        return list_strays(self._session.store) if dry_run else collect_garbage(self._session.store)

    def _refitted(self, change: Change, effect: Effect) -> Commit:
        return replace(commit(self._session, change, {}), effect=effect)

    def _edit(
        self,
        kind: str,
        requests: Sequence[EditRequest],
        method: str,
        ridge: float | None,
        actor: str | None,
        reason: str | None,
        on_fail: OnFail | str,
        budget: Budget | None = None,
        refused: Sequence[str] = (),
    ) -> Commit:
        """Write a batch, and do with its facts that do not hold what `on_fail` says.

        `refused` are the ids of a batch that was too much at once, of which this one is a part.
        """
        signed = self._signed(actor, reason)
        if OnFail(on_fail) != OnFail.revert:
            done = self._write(kind, requests, method, ridge, signed, budget, refused)
            if on_fail == OnFail.stop:
                done.check()
            return done
        # A run that ended between a commit and its revert left what goes out before anything else is written.
        earlier = self._take_out_condemned(actor)
        signed |= {"on_fail": OnFail.revert.value}
        done = self._write(kind, requests, method, ridge, signed, budget, refused)
        return replace(done, undone=self._take_out_condemned(actor) or earlier)

    def _take_out_condemned(self, actor: str | None) -> Entry | None:
        """Revert the facts that failed under `OnFail.revert`; None where there are none."""
        session = self._session
        session.writable()
        facts = condemned(session.head.entries, session.head.history.facts)
        if not facts:
            return None
        seqs = ", ".join(str(seq) for seq in sorted(set(facts.values())))
        body = self._signed(actor, f"not said after entry {seqs}") | bodies.revert_body(session.head.history, [*facts])
        return commit(session, session.kind.write(session.head, "revert", body), {}).entry

    def _write(
        self,
        kind: str,
        requests: Sequence[EditRequest],
        method: str,
        ridge: float | None,
        signed: Mapping[str, Any],
        budget: Budget | None,
        refused: Sequence[str],
    ) -> Commit:
        """Write a batch and commit it."""
        session, kind_of_memory = self._session, self._session.kind
        batch = take_in(session.writable(), session.kind.forms, session.head.history.facts, requests)
        if not batch.requests:
            kind_of_memory.choose(method, ridge, 0)
            return Commit(None, skipped=batch.skipped)
        how = kind_of_memory.choose(method, ridge, len(batch.requests), protecting=kind == "protect")
        about = {"method": method, "hyperparameters": {**how.told, **session.init["config"]}, **batch.body()}
        left = [id for id in refused if id not in session.head.history.facts and id not in batch.ids]
        about |= {"refused": left} if left else {}
        change = kind_of_memory.write(session.head, kind, {**signed, **about}, how)
        if budget and (refused or due(budget, session.head, batch.ids)):
            change = replace(change, body={**change.body, **check(session, change, budget)})
        return commit(session, change, batch.contents(), batch.skipped)

    def _measured(self, kind: str, body: dict[str, Any], probe: int) -> Commit:
        """Commit a change of which facts are active, with its blast radius measured."""
        return commit_measured(self._session, self._session.kind.write(self._session.head, kind, body), probe)

    def _signed(self, actor: str | None, reason: str | None) -> dict[str, Any]:
        return signed(actor, reason, self._session.settings.seed)
