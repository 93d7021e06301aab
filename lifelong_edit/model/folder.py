"""The files of a model folder, checked before a library reads them: plain ones, of bounded size, weights as floats."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lifelong_edit.errors import ModelError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"
SETTINGS = (CONFIG, GENERATION, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
TEXT_SUFFIXES = (".json", ".jinja", ".model", ".txt")  # of files that are read whole
MAX_SETTINGS, MAX_TEXT = 2 * 2**20, 64 * 2**20  # bytes; those in use have up to 1.2 MB, and 35 MB (tokenizer.json)
MAX_TENSORS = 2**18  # checkpoints of many experts have some 100,000
LFS_POINTER = b"version https://git-lfs"
FLOATS = ("F64", "F32", "F16", "BF16")
# Files that transformers would read instead of the weights, or beside them, and by another package.
FOREIGN = {
    "adapter_config.json": "an adapter: merge it into the weights and save them",
    "shard-*-model-*.safetensors": "a distributed checkpoint: save the whole model with save_pretrained",
}


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Turn whatever is raised in the block into a `ModelError` that names `path` and the cause.

    Transformers, tokenizers, safetensors, json and torch raise some twenty classes over odd files, and a panic of
    tokenizers is not even an `Exception`.
    """
    try:
        yield
    except ModelError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300].encode("unicode_escape").decode()
        raise ModelError(
            f"{path} cannot be opened: {cause.rstrip('.')}. Mend it, or export the model again."
        ) from error


@dataclass(frozen=True)
class Stored:
    """What a checkpoint's headers say: how many tensors it has, how many numbers, and the longest dimension."""

    tensors: int
    numbers: int
    longest: int


def check_files(folder: Path) -> None:
    """Raise `ModelError` when the folder lacks config or tokenizer, or holds what a loader should not touch."""
    if not (folder / CONFIG).exists():
        raise ModelError(
            f"{folder} is not a model folder: it has no {CONFIG}. Give a local folder as save_pretrained writes it."
        )
    for path in [*folder.iterdir(), *folder.glob("*/*")]:
        _check_file(path)
    for pattern, what in FOREIGN.items():
        if found := next(folder.glob(pattern), None):
            raise ModelError(f"{found} is part of {what}. Or take it away.")
    for name in SETTINGS:
        if (folder / name).is_file():
            read_object(folder / name)
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise ModelError(
            f"{folder} has no tokenizer: none of {', '.join(VOCABULARY_FILES)}. Save the model's tokenizer there."
        )


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; `ModelError` when it holds another value."""
    with blamed_on(file):
        document = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ModelError(f"{file} holds a {type(document).__name__}, not a JSON object. Export the model again.")
    return document


def stored_weights(folder: Path) -> Stored:
    """Read the checkpoint's headers; `ModelError` when a file is missing or damaged, or a weight is no float."""
    tensors = numbers = longest = 0
    for file in _weight_files(folder):
        with blamed_on(file), safe_open(file, framework="pt") as held:
            names = held.keys()
            if tensors + len(names) > MAX_TENSORS:
                raise ModelError(f"{file} goes beyond {MAX_TENSORS:,} tensors, no known model has as many. Replace it.")
            for name in names:
                header = held.get_slice(name)
                shape, dtype = header.get_shape(), header.get_dtype()
                if name.endswith(".weight") and dtype not in FLOATS:
                    raise ModelError(
                        f"{file} holds {name[:60]!r} as {dtype}, and quantized weights cannot be edited. "
                        f"Give the model in one of {', '.join(FLOATS)}."
                    )
                tensors, numbers, longest = tensors + 1, numbers + math.prod(shape), max(longest, *shape, 0)
    return Stored(tensors, numbers, longest)


def _check_file(path: Path) -> None:
    """Raise `ModelError` for a device or a pipe, for a text that is too long, and for a file that was not fetched."""
    if not path.is_file():
        if path.exists() and not path.is_dir():
            raise ModelError(f"{path} is a device or a pipe, and a model is read from plain files. Replace it.")
        return
    text, size = path.suffix in TEXT_SUFFIXES, path.stat().st_size
    limit = MAX_SETTINGS if path.name in SETTINGS else MAX_TEXT
    if text and size > limit:
        raise ModelError(f"{path} has {size:,} bytes, more than the {limit:,} that are read. Replace it.")
    if (text or path.suffix == ".safetensors") and size < 1024 and path.read_bytes().startswith(LFS_POINTER):
        raise ModelError(f"{path} is a pointer of Git LFS, not the file itself. Fetch it: git lfs pull.")


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights from; `ModelError` when there are none, or not all."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise ModelError(
            f"{folder} has no .safetensors weights, neither {WEIGHTS} nor {INDEX}, and pickled ones (.bin) are not "
            "read because they can run code. Convert them with save_pretrained."
        )
    with blamed_on(index):
        document = read_object(index)
        if not isinstance(document.get("metadata"), dict):
            raise ModelError(f"{index} has no metadata, where an object should be. Export the model again.")
        shards = sorted(set(document["weight_map"].values()))
        for shard in shards:
            if Path(shard).name != shard or not shard.endswith(".safetensors") or not (folder / shard).is_file():
                raise ModelError(
                    f"{index} names {shard[:60]!r}, which is no .safetensors file of the folder; pickled weights are "
                    "not read because they can run code. Export the model again with save_pretrained."
                )
    return [folder / shard for shard in shards]
