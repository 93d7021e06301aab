"""Goal 24: a model folder that would run code of its own runs none."""

from __future__ import annotations

import json
import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.reliability.watching import PathWatch

pytestmark = pytest.mark.reliability
SOUND = Path(__file__).parents[2] / "checkpoints" / "tiny-world"
CODE = "own_code"  # the module in a folder that transformers would import if it were trusted


class Trap:
    """What makes a file `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def sprung(folder: Path) -> Path:
    """The file that code from `folder` would make."""
    return folder.parent / f"{folder.name} was run"


def copy_of_sound(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((SOUND / name).read_bytes())
    (folder / "model.safetensors").symlink_to(SOUND / "model.safetensors")


def pickled_weights(folder: Path, name: str = "pytorch_model.bin") -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(sprung(folder))))


def beside_a_decoy(folder: Path) -> None:
    pickled_weights(folder)
    save_file({"x": np.ones(1)}, folder / "decoy.safetensors")


def behind_an_index(folder: Path) -> None:
    beside_a_decoy(folder)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def own_code(folder: Path, relative: str = f"{CODE}.py") -> None:
    path = folder / relative
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"open({str(sprung(folder))!r}, 'w').close()\n"
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
        "from transformers import PreTrainedTokenizerFast as Tokenizer\n"
    )


def own_configuration(folder: Path) -> None:
    own_code(folder)
    changed(folder / "config.json", model_type="trap", auto_map={"AutoConfig": f"{CODE}.Config"})


def own_model(folder: Path) -> None:
    own_code(folder)
    maps = {"AutoConfig": f"{CODE}.Config", "AutoModelForCausalLM": f"{CODE}.Model"}
    changed(folder / "config.json", auto_map=maps, architectures=["Model"])


def own_tokenizer(folder: Path) -> None:
    own_code(folder)
    maps = {"AutoTokenizer": [f"{CODE}.Tokenizer", f"{CODE}.Tokenizer"]}
    changed(folder / "tokenizer_config.json", auto_map=maps, tokenizer_class="Tokenizer")


def own_generation(folder: Path) -> None:
    own_code(folder, "custom_generate/generate.py")


REFUSED: dict[str, Callable[[Path], None]] = {
    "only pickled weights": pickled_weights,
    "pickled weights beside a decoy": beside_a_decoy,
    "pickled weights behind an index": behind_an_index,
    "pickled weights under another name": lambda folder: pickled_weights(folder, "model.safetensors"),
    "own configuration": own_configuration,
}
HARMLESS: dict[str, Callable[[Path], None]] = {
    "own model": own_model,
    "own tokenizer": own_tokenizer,
    "own generation": own_generation,
}


def open_all(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What came of every folder in `folder`, and the pickles that were opened. The one in control/ is trusted."""
    from transformers import AutoConfig

    from lifelong_edit.errors import LifelongEditError
    from lifelong_edit.model.editable import EditableModel

    watch, came = PathWatch(), {}
    for place in sorted(folder.iterdir()):
        with watch.watching():
            try:
                EditableModel.open(place)
                came[place.name] = "opened"
            except LifelongEditError as error:
                came[place.name] = type(error).__name__
            except Exception as error:
                came[place.name] = f"not ours: {error!r:.80}"
    AutoConfig.from_pretrained(folder.parent / "control" / "own configuration", trust_remote_code=True)
    return came, [path for path in watch.paths if path.endswith(".bin")]


def test_no_code_of_a_folder_is_run(scratch: Path) -> None:
    for name, craft in {**REFUSED, **HARMLESS, "sound": lambda _: None}.items():
        for folder in (scratch / "folders" / name, scratch / "control" / name):
            copy_of_sound(folder)
            craft(folder)
    code = (
        "import json, pathlib, sys; from tests.reliability.test_hostile_models import open_all;"
        "print(json.dumps(open_all(pathlib.Path(sys.argv[1]))))"
    )
    caches = {"HF_HOME": str(scratch / "caches"), "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, "-c", code, str(scratch / "folders")]
    run = subprocess.run(arguments, env={**os.environ, **caches}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4_000:]
    came, pickles = json.loads(run.stdout.splitlines()[-1])
    assert came.pop("sound") == "opened"
    assert {name: came[name] for name in REFUSED} == dict.fromkeys(REFUSED, "ModelError")
    assert {came[name] for name in HARMLESS} <= {"opened", "ModelError"}
    assert pickles == [] and [name for name in came if sprung(scratch / "folders" / name).exists()] == []

    control = scratch / "control"  # the traps are real: each springs on who trusts it
    pickle.loads((control / "only pickled weights" / "pytorch_model.bin").read_bytes()).close()
    runpy.run_path(str(control / "own generation" / "custom_generate" / "generate.py"))
    for name in ("only pickled weights", "own configuration", "own generation"):
        assert sprung(control / name).exists(), name
    print(f"goal 24: {len(came)} model folders with code of their own, 0 lines of it run, 0 pickles opened")
