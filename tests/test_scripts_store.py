"""The scripts around the store: weights rebuilt from files alone, and the figures of its costs and of its reverts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bench_store
import measure_reverts
import pytest
import torch
from measure_reverts import Written, written
from rebuild_weights import rebuild
from safetensors.torch import load_file
from torch import Tensor

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.change.plan import Change
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from tests.models import byte_level, small_model
from tests.samples import QUICK, REQUESTS, new_editor
from tests.test_tiny_world import FOLDER

SCRIPT = Path(__file__).parents[1] / "scripts" / "rebuild_weights.py"
ALONE = """
import runpy, sys
sys.path[:] = [path for path in sys.path if path]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
loaded = {"torch", "lifelong_edit", "transformers"} & set(sys.modules)
sys.exit(f"{loaded} loaded" if loaded else 0)
"""
STREAM = edit_requests(World.generate(BUNDLED_SEED), 20, seed=0)
FAST = EditorSettings(target=QUICK)


def lived(folder: Path, model_type: str, stored: torch.dtype, memory: str, d_ff: int = 64) -> LifelongEditor:
    """A store with edits, reverts in the middle, a restore and a replacement, for the model saved in `folder`/model."""
    tokenizer = byte_level()
    model = small_model(model_type, len(tokenizer), stored, d_ff=d_ff)
    model.save_pretrained(folder / "model")
    editor = new_editor(folder / "store", EditableModel(model.float(), tokenizer), layers=(0, 1), memory=memory)
    for batch in (REQUESTS[:2], REQUESTS[2:5], REQUESTS[5:]):
        editor.apply(batch)
    editor.revert("bo", "emile")
    editor.replace("ada", "Oran by the river")
    editor.revert("norvik")
    editor.restore("bo")
    return editor


@pytest.mark.parametrize("memory", ["batch", "joint"])
@pytest.mark.parametrize(
    ("model_type", "stored", "d_ff"),
    [
        ("gpt2", torch.float32, 64),
        ("gpt2", torch.float32, 32),  # a square matrix, whose shape does not tell how it is stored
        ("llama", torch.float32, 64),
        ("llama", torch.bfloat16, 64),
        ("llama", torch.float16, 32),
    ],
)
def test_the_sum_of_all_recorded_deltas_is_the_live_weight(
    model_type: str, stored: torch.dtype, d_ff: int, memory: str, tmp_path: Path
) -> None:
    with lived(tmp_path, model_type, stored, memory, d_ff) as editor:
        command = [sys.executable, "-c", ALONE, SCRIPT, tmp_path / "store", tmp_path / "model"]
        run = subprocess.run([*command, "--out", tmp_path / "out"], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        rebuilt, live, base = load_file(tmp_path / "out"), editor.model.state_dict(), load_model(tmp_path / "model")
        assert len(rebuilt) == 2
        for name, weight in rebuilt.items():
            assert name in run.stdout
            assert distance(weight, live[name]) <= 1e-6
            assert distance(weight, base[name].float()) > 1e-3, "edits are in place"


def load_model(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_every_seq_can_be_rebuilt_and_another_model_is_refused(tmp_path: Path) -> None:
    with lived(tmp_path, "gpt2", torch.float32, "joint") as editor:
        for seq in range(1, editor.head.seq + 1):
            weights, transposed = rebuild(tmp_path / "store", tmp_path / "model", seq)
            then = editor.at(seq).editable
            assert transposed
            for layer in (0, 1):
                rebuilt = torch.from_numpy(weights[then.weight_name(layer)])
                assert distance(rebuilt, then.weight(layer)) <= 1e-6
        editor.model.save_pretrained(tmp_path / "edited")
        with pytest.raises(SystemExit, match="not the one"):
            rebuild(tmp_path / "store", tmp_path / "edited")
        small_model("llama", 380).save_pretrained(tmp_path / "other")
        with pytest.raises(SystemExit, match=r"has no transformer\.h\.\d\.mlp"):
            rebuild(tmp_path / "store", tmp_path / "other")


def test_the_bench_measures_a_store_that_fills_without_optimising(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_store, "REPEATS", 1)
    with bench_store.random_targets(seed=0):
        rows = list(bench_store.filled(tmp_path, FOLDER, STREAM, [10, 20]))
    assert [row["facts"] for row in rows] == [10, 20]
    for row in rows:
        assert all(row[column] > 0 for column in bench_store.COLUMNS)
        assert row["ratio"] == row["its algebra"] / row["targets of a batch"]
        computed = bench_store.sizes("", (256, 768))[3]
        assert isinstance(computed, int) and computed < row["bytes a fact"] < 1.2 * computed
    with LifelongEditor.open(tmp_path / "filling") as reader:
        steps = [step for entry in reader.history()[1:] for step in entry.body["steps"]]
        assert steps == [0] * 20, "no target was optimised"
    with LifelongEditor.open(tmp_path / "20") as reader:
        assert {entry.kind for entry in reader.history()} == {"init", "edit", "revert", "restore"}
        assert {fact.status for fact in reader.facts().values()} == {"active"}


def test_reverts_keep_both_laws_and_the_others_answers() -> None:
    untouched = untouched_facts(World.generate(BUNDLED_SEED), 20, 20, seed=0)
    with written(FOLDER, STREAM, FAST) as store:
        exact = measure_reverts.exactness(store, STREAM[::5])
        laws = measure_reverts.no_trace(store, FOLDER, STREAM, STREAM[3:4], [STREAM[3].question])
        figures = {what: figure for what, figure, _ in measure_reverts.recall(store, STREAM, STREAM[:2], untouched)}
    for what, figure, bound in [*exact, *laws]:
        assert bound is not None and figure <= bound, what
    assert len(exact) == 3 and len(laws) == 2
    assert figures["d  untouched recall of the store, %"] > 80
    assert all(figure == figure for figure in figures.values()), "no figure is missing"


def test_a_revert_that_leaves_the_fact_in_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Written.revert

    def idle(store: Written, request: EditRequest) -> tuple[Change, Tensor]:
        return whole(store, request)[0], store.layer.weight

    monkeypatch.setattr(Written, "revert", idle)
    with written(FOLDER, STREAM, FAST) as store:
        rows = measure_reverts.exactness(store, STREAM[:1])
        (far, bound) = measure_reverts.no_trace(store, FOLDER, STREAM, STREAM[:1], [])[0][1:]
    assert all(figure > 1e-2 for _, figure, _ in rows)
    assert bound is not None and far > 1e-2


def test_with_live_targets_the_gap_is_measured() -> None:
    rows = measure_reverts.gap(FOLDER, STREAM[:12], 1, replace(FAST, targets="live"))
    mean, most, before, _ = (figure for _, figure, _ in rows)
    assert 0 < mean == most < before, "a revert brings the weights nearer to those of a stream without the fact"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([1.0, 2.0, 9.0], [10.0, 20.0, 21.0], 1.0), ([1.0, 2.0, 3.0], [5.0, 4.0, 0.0], -1.0),
     ([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0], 0.6)],
)  # fmt: skip
def test_spearman(a: list[float], b: list[float], expected: float) -> None:
    assert measure_reverts.spearman(a, b) == pytest.approx(expected)
