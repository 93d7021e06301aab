"""A store that was written on another processor, whose sums have other last bits: nothing is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.kinds.kernel import state
from lifelong_edit.kinds.kernel.state import weights_digest
from lifelong_edit.store import KernelRecord, ObjectStore
from tests.engine.editors import base_model, digest, edited, lived_in
from tests.engine.inspect.test_verify import tampered, with_part
from tests.reliability.damage import flipped
from tests.samples import PATIENCE, REQUESTS

ELSEWHERE = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"}
VISIT = """
import json, sys
from lifelong_edit import EditRequest, LifelongEditor

with LifelongEditor.open(sys.argv[1], sys.argv[2]) as editor:
    found = editor.verify(replay=True, keys=True)
    there = editor.head.seq
    made = editor.apply([EditRequest("{} lies in", "Tarsis", "Oran", id="tarsis")])
    editor.revert("norvik")
    editor.restore("norvik")
    editor.revert(to=there)
    again = editor.verify(replay=True)
    print(json.dumps([found.problems, again.problems, again.rebuilt - found.rebuilt, len(made.facts)]))
"""


def in_the_middle(root: Path) -> tuple[str, Tensor, tuple[int, int], float]:
    """Scale a row of the values in entry 1 so that one weight lies in the middle between two float32 numbers.

    Gives the weight's name, its values as they are rounded here, the place, and the number on the other side.
    """
    with LifelongEditor.open(root, base_model(), read_only=True) as reader:
        name, base = reader.editable.weight_name(0), base_model().weight(0).numpy()
        record = str(reader.history()[1].record)
    part = KernelRecord.from_bytes(ObjectStore(root / "objects").get(record)).parts[name]
    change = part.left @ part.right.T
    i, j = (int(n) for n in np.unravel_index(np.abs(change).argmax(), change.shape))
    below = np.float32(base[i, j] + change[i, j])
    above = np.nextafter(below, np.float32(np.inf))
    factor = np.ones((len(base), 1))
    factor[i] = ((np.float64(below) + np.float64(above)) / 2 - base[i, j]) / change[i, j]
    tampered(root, 1, with_part(root, left=lambda left: left * factor, base_residuals=lambda asked: asked * factor))
    with warnings.catch_warnings(action="ignore"), LifelongEditor.open(root, base_model(), read_only=True) as reader:
        here = reader.editable.weight(0).clone()
    return name, here, (i, j), float(above if here[i, j] == below else below)


def rounded_there(root: Path) -> Path:
    """The store as a processor would have written it that rounds the weight in the middle to the other side."""
    name, there, place, other = in_the_middle(root)
    there[place] = other
    tampered(root, 1, lambda body: body.update(weights=weights_digest({name: there})))
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with one batch."""
    root = tmp_path_factory.mktemp("travel") / "store"
    edited(root, [REQUESTS[:3]]).close()
    return root


def test_a_weight_that_may_round_either_way_is_no_alarm(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = rounded_there(shutil.copytree(written, tmp_path / "store"))
    with LifelongEditor.open(root, base_model()) as editor:  # warns of nothing, or this test fails
        audit = editor.verify(replay=True)
        (note,) = audit.notes
        assert audit.problems == () and note.startswith("entry 1: the fold has another weights digest than recorded")
        assert "which rounding explains" in note and f"of {editor.editable.weight(0).numel():,} weights" in note
        recorded, before = digest(editor), editor.editable.weight(0)
    monkeypatch.setattr(state, "append", None)
    with LifelongEditor.open(root, base_model()) as editor:  # from the cache: nothing is solved anew
        assert torch.equal(editor.editable.weight(0), before)
    monkeypatch.undo()
    with LifelongEditor.open(root, base_model()) as editor:
        editor.revert("ada")
        editor.restore("ada")
        assert torch.equal(editor.editable.weight(0), before) and digest(editor) != recorded  # as it is rounded here
        editor.revert(to=0)
        assert digest(editor) == editor.history()[0].body["base_weights"]
        assert editor.verify(replay=True).problems == ()


def test_a_weight_that_rounds_one_way_only_is_a_problem(written: Path, tmp_path: Path) -> None:
    root = shutil.copytree(written, tmp_path / "store")
    with LifelongEditor.open(root, base_model()) as editor:
        name, other = editor.editable.weight_name(0), editor.editable.weight(0).clone()
    other[0, 0] = torch.nextafter(other[0, 0], torch.tensor(torch.inf))
    tampered(root, 1, lambda body: body.update(weights=weights_digest({name: other})))
    with pytest.warns(UserWarning, match="rounding of another processor does not explain"):
        editor = LifelongEditor.open(root, base_model())
    with editor:
        (problem,) = editor.verify(replay=True).problems
        assert problem.startswith("entry 1: ") and "does not explain" in problem


def test_the_last_bit_of_a_record_is_found_all_the_same(written: Path, tmp_path: Path) -> None:
    root = rounded_there(shutil.copytree(written, tmp_path / "store"))
    with LifelongEditor.open(root) as reader:
        record = str(reader.history()[1].record)
    path = root / "objects" / record[:2] / f"{record}.safetensors"
    data = path.read_bytes()
    path.write_bytes(flipped(data, 8 * (len(data) - 8)))  # of the last number, which is little-endian
    with LifelongEditor.open(root) as reader:
        (problem,) = reader.verify().problems
        assert "entry 1" in problem and record in problem


def test_a_store_is_edited_on_another_processor_and_comes_back(tmp_path: Path) -> None:
    """One that rounds its sums otherwise, by the libraries' own switches, in a process of its own."""
    editable, model, root = base_model(), tmp_path / "model", tmp_path / "store"
    editable.model.save_pretrained(model)
    editable.tokenizer.save_pretrained(model)
    lived_in(root).close()
    line = [sys.executable, "-W", "error:The weights rebuilt", "-c", VISIT, str(root), str(model)]
    there = subprocess.run(line, env={**os.environ, **ELSEWHERE}, capture_output=True, text=True, timeout=PATIENCE)
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == [[], [], 4, 1]
    with LifelongEditor.open(root, model) as editor:
        audit = editor.verify(replay=True, keys=True)
        assert audit.problems == () and audit.largest_difference < 1e-9
