"""Weights rebuilt from a store's files alone are those of the live model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.model.editable import EditableModel
from rebuild_weights import rebuild
from tests.models import byte_level, small_model
from tests.samples import REQUESTS, new_editor

SCRIPT = Path(__file__).parents[2] / "scripts" / "rebuild_weights.py"
ALONE = """
import runpy, sys
sys.path[:] = [path for path in sys.path if path]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
loaded = {"torch", "lifelong_edit", "transformers"} & set(sys.modules)
sys.exit(f"{loaded} loaded" if loaded else 0)
"""


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
