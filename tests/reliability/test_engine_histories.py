"""Any sequence of changes, deaths and openings leaves the weights that formula (2) gives to the facts now active."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors.numpy import load_file

from lifelong_edit.engine import Commit, LifelongEditor
from tests.reliability.engines import (
    PROMPTS,
    SUBJECTS,
    TARGETS,
    Killed,
    Prepared,
    base_model,
    drop,
    dying,
    made_up_delta,
    request,
    slot_of,
    state_of,
    with_made_up_targets,
)
from tests.reliability.reference import Reference, Value

pytestmark = pytest.mark.reliability
RUNS, STEPS = int(os.environ.get("RELIABILITY_RUNS", "100")), 20
KINDS = [
    {"memory": "joint", "targets": "base", "layers": (0,)},
    {"memory": "batch", "targets": "live", "layers": (0,)},
    {"memory": "joint", "targets": "live", "layers": (0, 1)},
    {"memory": "batch", "targets": "base", "layers": (0,)},
]
WHOLE, SUMMED = 1e-9, 1e-6  # relative to what was changed
KEPT = ("keys", "whitened", "base_residuals", "ridge")
BEFORE, AFTER = "before the commit", "after the commit"
EXPECTED = ("edit", "protect", "replace", "revert", "restore", "opened again", f"killed {BEFORE}", f"killed {AFTER}")
Words = tuple[int, int, int]
Parts = dict[str, dict[str, Any]]

asked = st.tuples(*(st.integers(0, len(of) - 1) for of in (SUBJECTS, PROMPTS, TARGETS)))
batches = st.lists(asked, min_size=1, max_size=3, unique_by=lambda words: words[:2])
deaths = st.sampled_from([None] * 6 + [BEFORE, AFTER])
ridges = st.sampled_from([None, None, 3.0, 0.0])


class Histories(RuleBasedStateMachine):
    """One store and its reference. `prepared` and `seen` are set by the test; `seen` counts what happened."""

    prepared: Prepared
    seen: Counter[str]
    worst: dict[str, float]

    @initialize(kind=st.sampled_from(KINDS))
    def found(self, kind: dict[str, Any]) -> None:
        self.kind, self.root = kind, self.prepared.store(**kind)
        self.editable = base_model()
        self.base = {n: self.editable.weight(n) for n in kind["layers"]}
        self.reference = Reference(kind["memory"] == "joint")
        self.reference.noted()
        self.sums = {n: weight.double().numpy() for n, weight in self.base.items()}
        self.digests: dict[frozenset[str], str] = {}
        self.open()

    def open(self) -> None:
        self.editable.set_weights(self.base)
        self.editor = LifelongEditor.open(self.root, self.editable)

    def change(self, verb: str, make: Callable[[], Commit], say: Callable[[], None], death: str | None) -> bool:
        """Make a change and say it to the reference if it happened; a death is followed by a new opening."""
        before, happened = state_of(self.editor), True
        try:
            with dying(after=death == AFTER) if death else nullcontext():
                happened = make().entry is not None
            assert not (death and happened), "the death did not come"
        except Killed:
            self.seen[f"killed {death}"] += 1
            happened = death == AFTER
            assert happened or state_of(self.editor) == before
            self.kill()
        if happened:
            self.seen[verb] += 1
            say()
            self.take(verb)
        return happened

    def take(self, kind: str) -> None:
        """What the newest record brings: a value for just those groups of facts that lack one, and the delta."""
        entry = self.editor.head
        assert entry.kind == kind and entry.seq == len(self.reference.states)
        digest = str(entry.record)
        tensors = load_file(self.root / "objects" / digest[:2] / f"{digest}.safetensors")
        names = [self.editable.weight_name(n) for n in self.base]
        groups = [frozenset(ids) for ids in entry.body.get("columns", [])]
        assert len(groups) == len(set(groups)) and set(groups) == self.reference.missing()
        for column, facts in enumerate(groups):
            parts = {name: {key: tensors[f"{name}/{key}"][..., column] for key in KEPT} for name in names}
            self.reference.values.append(Value(entry.seq, self.reference.slot[min(facts)], facts, parts))
            self.compare_target(facts, parts)
        for n, name in zip(self.base, names, strict=True):
            self.sums[n] = self.sums[n] + tensors[f"{name}/left"] @ tensors[f"{name}/right"].T
        self.reference.noted()

    def compare_target(self, facts: frozenset[str], parts: Parts) -> None:
        """With base targets in one layer a frozen residual is the target itself, and none for protected facts."""
        if self.kind["targets"] == "base":
            lives = [self.editor.facts()[id] for id in facts]
            (part,) = parts.values()
            wanted = made_up_delta([fact.request for fact in lives], len(part["base_residuals"]))
            assert np.array_equal(part["base_residuals"], wanted * (not all(fact.protected for fact in lives)))

    def write(self, verb: str, asked: Sequence[Words], death: str | None, ridge: float | None) -> None:
        count = len(self.reference.statement)
        requests = {f"fact-{count + i}": request(f"fact-{count + i}", *words) for i, words in enumerate(asked)}
        write = self.editor.protect if verb == "protect" else self.editor.apply

        def say() -> None:
            self.reference.statement |= {id: request.statement for id, request in requests.items()}
            self.reference.slot |= {id: slot_of(request) for id, request in requests.items()}
            self.reference.enter(requests)

        if self.change(verb, lambda: write(requests.values(), ridge=ridge), say, death) and death:
            again = self.editor.apply(requests.values())  # by whoever did not hear that it was done
            assert again.entry is None and again.skipped == tuple(requests)

    @rule(asked=batches, death=deaths, ridge=ridges)
    def apply(self, asked: Sequence[Words], death: str | None, ridge: float | None) -> None:
        self.write("edit", asked, death, ridge)

    @precondition(lambda self: self.reference.joint)
    @rule(asked=batches, death=deaths)
    def protect(self, asked: Sequence[Words], death: str | None) -> None:
        self.write("protect", asked, death, None)

    @precondition(lambda self: self.reference.active)
    @rule(data=st.data(), other=st.sampled_from(TARGETS), death=deaths)
    def replace(self, data: st.DataObject, other: str, death: str | None) -> None:
        old = data.draw(st.sampled_from(sorted(self.reference.active)))

        def say() -> None:
            (new,) = self.editor.facts().keys() - self.reference.statement.keys()
            for known in (self.reference.statement, self.reference.slot):
                known[new] = known[old]
            self.reference.enter([new])

        self.change("replace", lambda: self.editor.replace(old, other), say, death)

    @precondition(lambda self: self.reference.active)
    @rule(data=st.data(), death=deaths)
    def revert_some(self, data: st.DataObject, death: str | None) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.reference.active)), min_size=1, unique=True))
        self.change("revert", lambda: self.editor.revert(*ids, probe=0), lambda: self.reference.revert(ids), death)

    @precondition(lambda self: self.reference.active)
    @rule(data=st.data(), death=deaths)
    def revert_an_entry(self, data: st.DataObject, death: str | None) -> None:
        facts = [fact for fact in self.editor.facts().values() if fact.id in self.reference.active]
        seq = data.draw(st.sampled_from(sorted({fact.seq for fact in facts})))
        ids = [fact.id for fact in facts if fact.seq == seq]
        make = lambda: self.editor.revert(commit=seq, probe=0)  # noqa: E731
        self.change("revert", make, lambda: self.reference.revert(ids), death)

    @rule(data=st.data(), death=deaths)
    def revert_to(self, data: st.DataObject, death: str | None) -> None:
        seq = data.draw(st.integers(0, len(self.reference.states) - 1))
        if self.reference.states[seq][0] != self.reference.active:
            wanted = frozenset(self.reference.states[seq][0])
            make = lambda: self.editor.revert(to=seq, probe=0)  # noqa: E731
            if self.change("revert", make, lambda: self.reference.revert_to(seq), death):
                assert self.editor.head.weights == self.digests[wanted]
                self.seen["digests recorded before were met"] += 1

    @precondition(lambda self: self.reference.statement.keys() - self.reference.active)
    @rule(data=st.data(), death=deaths)
    def restore(self, data: st.DataObject, death: str | None) -> None:
        gone = sorted(self.reference.statement.keys() - self.reference.active)
        chosen = st.lists(st.sampled_from(gone), min_size=1, max_size=3, unique_by=self.reference.statement.get)
        ids = data.draw(chosen)
        self.change("restore", lambda: self.editor.restore(*ids, probe=0), lambda: self.reference.enter(ids), death)

    @precondition(lambda self: self.reference.statement)
    @rule(killed=st.booleans())
    def open_again(self, killed: bool) -> None:
        self.seen["opened again"] += 1
        if killed:
            self.kill()
        else:
            self.editor.close()
            self.open()

    def kill(self) -> None:
        drop(self.editor)
        self.open()

    @invariant()
    def statuses_agree(self) -> None:
        facts = self.editor.facts()
        assert {id: fact.status for id, fact in facts.items()} == {
            id: self.reference.status(id) for id in self.reference.statement
        }
        assert len({self.reference.statement[id] for id in self.reference.active}) == len(self.reference.active)

    @invariant()
    def weights_are_those_of_formula_two(self) -> None:
        folded = {n: layer.weight for n, layer in self.editor.state.layers.items()}
        for n, base in self.base.items():
            name = self.editable.weight_name(n)
            wanted = self.reference.change(name, base.shape)  # W(A) - W_0
            size = float(np.linalg.norm(wanted)) or 1.0
            actual = folded[n].numpy() - base.double().numpy()
            self.note("formula (2)", float(np.linalg.norm(actual - wanted)) / size, WHOLE)
            self.note("sum of deltas", float(np.linalg.norm(self.sums[n] - folded[n].numpy())) / size, SUMMED)
            assert torch.equal(self.editable.weight(n), folded[n].float())

    @invariant()
    def equal_facts_have_equal_digests(self) -> None:
        digest = self.editor._session.head.recorded
        assert self.digests.setdefault(frozenset(self.reference.active), digest) == digest
        assert digest == digest_by_hand({self.editable.weight_name(n): self.editable.weight(n) for n in self.base})

    def note(self, what: str, size: float, limit: float) -> None:
        assert size <= limit, (what, size)
        self.worst[what] = max(self.worst.get(what, 0.0), size)

    def teardown(self) -> None:
        if hasattr(self, "editor"):
            found = self.editor.verify(replay=True)
            assert (found.problems, found.notes) == ((), ())
            assert found.rebuilt == sum(entry.weights is not None for entry in self.editor.history()[1:])
            self.seen["rebuilt"] += found.rebuilt
            self.editor.close()
            shutil.rmtree(self.root)


def digest_by_hand(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over name, shape and float32 values [d_out, d_in] of the edited weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(json.dumps([name, list(weight.shape)], separators=(",", ":")).encode())
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def test_weights_are_a_function_of_what_is_active(scratch: Path, seed: int) -> None:
    class Machine(Histories):
        prepared, seen, worst = Prepared(scratch), Counter[str](), {}

    choices = settings(
        max_examples=RUNS,
        stateful_step_count=STEPS,
        database=None,
        phases=[Phase.generate, Phase.shrink],
    )
    with with_made_up_targets():
        run_state_machine_as_test(seeded(seed)(Machine), settings=choices)
    seen = Machine.seen
    assert min(seen[kind] for kind in EXPECTED) > 0, seen
    print(f"\n{RUNS} runs of {STEPS} steps: {dict(seen)}; largest distances {Machine.worst}")


def statuses(editor: LifelongEditor) -> list[str]:
    return [fact.status for fact in editor.facts().values()]


def test_of_several_facts_that_one_superseded_the_last_comes_back(scratch: Path) -> None:
    root = Prepared(scratch).store(**KINDS[0])
    with with_made_up_targets(), LifelongEditor.open(root, base_model()) as editor:
        for target in range(3):
            editor.apply([request(f"answer-{target}", 0, 0, target)])
        editor.restore("answer-1")  # it superseded answer-0, and now answer-2
        assert statuses(editor) == ["superseded", "active", "superseded"]
        editor.revert("answer-1")
        assert statuses(editor) == ["superseded", "reverted", "active"]
        assert editor.head.weights == editor.history()[3].weights


def test_going_back_to_where_nothing_stood_in_for_a_superseded_fact(scratch: Path) -> None:
    root = Prepared(scratch).store(**KINDS[0])
    with with_made_up_targets(), LifelongEditor.open(root, base_model()) as editor:
        for target in range(2):
            editor.apply([request(f"answer-{target}", 0, 0, target)])
        back = editor.revert(to=0).entry
        assert back is not None and statuses(editor) == ["superseded", "reverted"]
        editor.restore("answer-0")
        again = editor.revert(to=back.seq).entry
        assert again is not None and statuses(editor) == ["reverted", "reverted"]
        assert again.weights == back.weights == editor.history()[0].body["base_weights"]
