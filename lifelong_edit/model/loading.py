"""Opening a model folder: safetensors only, nothing downloaded, no code from the folder, no weight made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lifelong_edit.errors import ModelError
from lifelong_edit.model.architectures import architecture_of

VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load(folder: Path, dtype: torch.dtype | None, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The folder's model, in its own dtype unless one is given, and its tokenizer; `ModelError` says what is wrong."""
    _check_files(folder)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without the device's support asserts
        raise ModelError(f"The device {device!r} is not available: {error} Choose another, such as 'cpu'.") from error
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        architecture_of(config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be opened as a model: {error} Check or re-export the folder.") from error
    model, report = loaded
    if report["missing_keys"]:
        raise ModelError(
            f"{folder} lacks the weights {sorted(report['missing_keys'])[:5]}; they would be random. "
            "Export the whole causal language model."
        )
    placed: PreTrainedModel = model.to(device)
    return placed, tokenizer


def checked_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerFast:
    """The tokenizer, if it gives character offsets and only ids that the model has."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"{type(tokenizer).__name__} gives no character offsets, which locate a subject. "
            "Save the model with a fast tokenizer (tokenizer.json)."
        )
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= largest < rows:
        raise ModelError(
            f"The tokenizer's largest token id is {largest}, the model embeds {rows} ids. "
            "Use the model's own tokenizer, or resize its embeddings."
        )
    return tokenizer


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is not a model folder: it has no config.json. Give a local folder as save_pretrained writes it."
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no .safetensors weights, and pickled ones (.bin) are not read because they can run code. "
            "Convert them with save_pretrained."
        )
    for index in folder.glob("*.safetensors.index.json"):
        _check_index(index)
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise ModelError(
            f"{folder} has no tokenizer: none of {', '.join(VOCABULARY_FILES)}. Save the model's tokenizer there."
        )


def _check_index(index: Path) -> None:
    """Raise `ModelError` unless all files that a sharded checkpoint's index names are .safetensors."""
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is no index of a checkpoint: {error}. Export the model again.") from error
    foreign = sorted(str(shard) for shard in shards if not str(shard).endswith(".safetensors"))
    if foreign:
        raise ModelError(
            f"{index} names weights that are not .safetensors: {foreign[0]!r}. Pickled ones are not read because they "
            "can run code. Convert them with save_pretrained."
        )
