"""Goal 24: a model folder that would run code of its own runs none, and one that is spoiled is refused or works."""

from __future__ import annotations

import json
import os
import pickle
import resource
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lifelong_edit.errors import LifelongEditError, ModelError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tracking.generation import answer
from tests.model.odd_folders import REFUSED as ODD
from tests.model.odd_folders import save_sound, spoiled
from tests.models import small_editable
from tests.reliability.watching import PathWatch

pytestmark = pytest.mark.reliability
SOUND = Path(__file__).parents[2] / "checkpoints" / "tiny-world"
REACHING = {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
FOREIGN = {"kernels", "flash_attn", "bitsandbytes"}
PATIENCE = 120  # seconds; the slowest takes two
ADDRESSES, GROWTH = 32 * 2**30, 2**30  # bytes of address space, and of memory beyond what the sound folder takes
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
    assert {came[name] for name in REFUSED} <= {"ModelError", "UnsupportedModel"}
    assert {came[name] for name in HARMLESS} <= {"opened", "ModelError"}
    assert pickles == [] and [name for name in came if sprung(scratch / "folders" / name).exists()] == []

    control = scratch / "control"  # the traps are real: each springs on who trusts it
    pickle.loads((control / "only pickled weights" / "pytorch_model.bin").read_bytes()).close()
    runpy.run_path(str(control / "own generation" / "custom_generate" / "generate.py"))
    for name in ("only pickled weights", "own configuration", "own generation"):
        assert sprung(control / name).exists(), name
    print(f"goal 24: {len(came)} model folders with code of their own, 0 lines of it run, 0 pickles opened")


class Hung(KeyboardInterrupt):
    """A folder took longer than any should; no handler of errors takes an interrupt for one."""


def open_spoiled(folder: Path) -> dict[str, Any]:
    """What came of every way to spoil a sound folder, what was reached on the way, and how memory grew (KiB)."""

    def hang(*_: object) -> None:
        raise Hung

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in REACHING or (event == "import" and arguments[0] in FOREIGN):
            reached.append(f"{event} {arguments[:1]}")

    sound, odd = save_sound(small_editable("llama"), folder / "sound"), folder / "odd"
    came: dict[str, str] = {}
    reached: list[str] = []
    used_with(sound)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    signal.signal(signal.SIGALRM, hang)
    sys.addaudithook(note)
    for name, craft in [*spoiled(sound), *((name, craft) for name, (_, craft) in ODD.items())]:
        shutil.copytree(sound, odd)
        craft(odd)
        signal.alarm(PATIENCE)
        try:
            came[name] = used_with(odd)
        except LifelongEditError as error:
            told = str(error)
            sound_words = str(odd) in told and told.isprintable() and told.endswith(".")
            came[name] = "refused" if isinstance(error, ModelError) and sound_words else f"refused with {told[:200]!r}"
        except BaseException as error:
            came[name] = f"raised {error!r:.200}"
        finally:
            signal.alarm(0)
        shutil.rmtree(odd)
    return {"came": came, "reached": reached, "grew": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before}


def used_with(folder: Path) -> str:
    """Open a folder and use the model as the editor does."""
    editable = EditableModel.open(folder)
    fingerprint(editable)
    answer(editable, "Ada Quill was born in")
    return "opened"


def test_every_spoiled_folder_is_refused_or_works(scratch: Path) -> None:
    code = (
        "import json, pathlib, sys; from tests.reliability.test_hostile_models import open_spoiled;"
        "print(json.dumps(open_spoiled(pathlib.Path(sys.argv[1]))))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(scratch)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4_000:]
    found = json.loads(run.stdout.splitlines()[-1])
    came = found["came"]
    assert {name: how for name, how in came.items() if how not in ("opened", "refused")} == {}
    assert found["reached"] == []
    assert {came[name] for name in ODD} == {"refused"} and "opened" in came.values()
    assert found["grew"] * 1024 < GROWTH
    refused = list(came.values()).count("refused")
    works = len(came) - refused
    print(f"goal 24: {len(came)} spoiled model folders, {refused} refused by name, {works} work, 0 errors of others")
