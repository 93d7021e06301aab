"""Verifying: a sound store has no problems, and what was tampered with is found and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import KernelRecord, ObjectStore
from tests.engine.editors import BATCHES, EVERY_KIND, KINDS, WORK, base_model, edited, lived_in
from tests.samples import REQUESTS
from tests.store.stores import rewritten


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with three edits and a revert."""
    root = tmp_path_factory.mktemp("verify") / "store"
    with edited(root, [*BATCHES[:2], [WORK]]) as editor:
        editor.revert("bo")
    return root


def tampered(root: Path, seq: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Another body for one entry, in a chain that holds, and no cache."""
    shutil.rmtree(root / "cache", ignore_errors=True)
    with LifelongEditor.open(root) as reader:
        entries = reader.history()
    change(entries[seq].body)
    rewritten(root / "ledger.db", entries)


def with_part(root: Path, **changes: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """Give an entry a record in which these tensors are others, under its right digest."""

    def change(body: dict[str, Any]) -> None:
        objects = ObjectStore(root / "objects")
        record = KernelRecord.from_bytes(objects.get(body["record"]))
        parts = {
            name: replace(part, **{key: act(getattr(part, key)) for key, act in changes.items()})
            for name, part in record.parts.items()
        }
        body["record"] = objects.put(replace(record, parts=parts).to_bytes())

    return change


@EVERY_KIND
def test_a_sound_store_has_no_problems(kind: dict[str, Any], tmp_path: Path) -> None:
    with lived_in(tmp_path / "store", **kind) as editor:
        changing = sum(entry.weights is not None for entry in editor.history())
        told: list[tuple[int, int]] = []
        audit = editor.verify(head=editor.head.digest, replay=True, keys=True, progress=lambda *of: told.append(of))
        assert (audit.problems, audit.notes, audit.rebuilt) == ((), (), changing)
        assert 0 < audit.largest_difference < 1e-9
        assert told == [(seq, editor.head.seq) for seq in range(1, editor.head.seq + 1)]
        newest = editor.verify()
        assert (newest.problems, newest.rebuilt, newest.key_drift) == ((), 1, {})
        audit.check()
        names = [editor.editable.weight_name(layer) for layer in kind["layers"]]
        assert list(audit.key_drift) == names
        assert audit.key_drift[names[0]] < 1e-5  # nothing is edited below it
        if len(names) > 1:
            assert audit.key_drift[names[1]] > 1e-3


def test_a_store_that_says_nothing_yet_is_sound(tmp_path: Path) -> None:
    with edited(tmp_path / "store", ()) as editor:
        audit = editor.verify(replay=True, keys=True)
        assert (audit.problems, audit.notes, audit.rebuilt, set(audit.key_drift.values())) == ((), (), 0, {0.0})


def test_a_head_kept_elsewhere_must_still_be_there(sound: Path) -> None:
    with LifelongEditor.open(sound, base_model(), read_only=True) as reader:
        for entry in reader.history():
            assert reader.verify(head=entry.digest).problems == ()
        audit = reader.verify(head="f" * 64)
        assert len(audit.problems) == 1 and "f" * 64 in audit.problems[0] and audit.rebuilt == 0
        with pytest.raises(StoreCorrupt, match="1 problem"):
            audit.check()


def test_without_a_model_the_files_are_checked(sound: Path, tmp_path: Path) -> None:
    root = shutil.copytree(sound, tmp_path / "store")
    with LifelongEditor.open(root) as reader:
        audit = reader.verify(replay=True, keys=True)
        assert (audit.problems, audit.rebuilt, audit.key_drift) == ((), 0, {})
        record = reader.history()[2].record
        assert record is not None
        path = root / "objects" / record[:2] / f"{record}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        problems = reader.verify().problems
        assert len(problems) == 1 and "entry 2" in problems[0] and record in problems[0]


@pytest.mark.parametrize("seq", [1, 3, 4])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_delta_that_does_not_lead_to_the_weights_is_found(sound: Path, side: str, seq: int, tmp_path: Path) -> None:
    """The fold does not use it, so the model is right; who applies the records alone would be wrong."""
    root = shutil.copytree(sound, tmp_path / "store")
    tampered(root, seq, with_part(root, **{side: lambda part: part * np.float64(1.001)}))
    with LifelongEditor.open(root, base_model()) as editor:
        audit = editor.verify(replay=True)
        assert [problem.split(":")[0] for problem in audit.problems] == [f"entry {n}" for n in range(seq, 5)]
        assert all("deltas miss the fold" in problem for problem in audit.problems)
        assert 1e-6 < audit.largest_difference < 1e-2
        assert [problem.split(":")[0] for problem in editor.verify().problems] == ["entry 4"]


@pytest.mark.parametrize("name", ["keys", "whitened", "base_residuals", "ridge"])
def test_facts_that_do_not_lead_to_the_weights_are_found(sound: Path, name: str, tmp_path: Path) -> None:
    root = shutil.copytree(sound, tmp_path / "store")
    tampered(root, 2, with_part(root, **{name: lambda part: part * np.float64(1.001)}))
    with pytest.warns(UserWarning, match="not those recorded"):
        editor = LifelongEditor.open(root, base_model())
    with editor:
        problems = editor.verify(replay=True).problems
        assert any("entry 2: the fold has another weights digest" in problem for problem in problems)
        assert any("deltas miss the fold" in problem for problem in problems)


def says(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(values)


@pytest.mark.parametrize("versions", [{}, {"threads": 64}, {"machine": "pdp11"}], ids=str)
def test_a_digest_that_rounding_does_not_explain_is_a_problem_wherever_it_was_made(
    versions: dict[str, Any], sound: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(sound, tmp_path / "store")

    def change(body: dict[str, Any]) -> None:
        body["weights"] = "a" * 64
        body["versions"].update(versions)

    tampered(root, 2, change)
    with LifelongEditor.open(root, base_model()) as editor:
        (problem,) = editor.verify(replay=True).problems
        assert problem.startswith("entry 2: the fold has another weights digest") and "does not explain" in problem
        assert editor.verify().problems == ()  # the newest entry is sound


def test_a_wrong_digest_of_the_head_warns_on_opening(sound: Path, tmp_path: Path) -> None:
    root = shutil.copytree(sound, tmp_path / "store")
    tampered(root, 4, says(weights="b" * 64))
    with pytest.warns(UserWarning, match="not those recorded"):
        editor = LifelongEditor.open(root, base_model())
    with editor:
        assert len(editor.verify().problems) == 1


@pytest.mark.parametrize("kind", [KINDS["joint-live-2"], KINDS["batch-live-2"]], ids=["joint", "batch"])
def test_keys_above_an_edited_layer_drift_and_are_reported(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:1]], **kind) as editor:
        lowest, upper = (editor.editable.weight_name(layer) for layer in (0, 1))
        first = editor.verify(keys=True).key_drift
        assert first[lowest] < 1e-5 and first[upper] < 1e-5  # it was taken with the lower layer's share written
        editor.apply([EditRequest("{} lives in", "Ada Quillt", "Oran")])
        drift = editor.verify(keys=True).key_drift
        assert drift[lowest] < 1e-5 and drift[upper] > 1e-3


def test_all_that_is_wrong_is_told_at_once(sound: Path, tmp_path: Path) -> None:
    root = shutil.copytree(sound, tmp_path / "store")
    tampered(root, 1, with_part(root, left=lambda part: part * 2))
    tampered(root, 3, says(weights="c" * 64))
    with LifelongEditor.open(root, base_model()) as editor, pytest.raises(StoreCorrupt) as caught:
        editor.verify(replay=True).check()
    assert all(f"entry {seq}: " in str(caught.value) for seq in (1, 2, 3, 4))
    assert str(caught.value).count("weights digest") == 1
