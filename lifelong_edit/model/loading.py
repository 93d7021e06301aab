"""Loading a model folder: safetensors only, nothing downloaded, no code from the folder, no weight made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lifelong_edit.errors import ModelError
from lifelong_edit.model.config import checked_config
from lifelong_edit.model.folder import GENERATION, blamed_on, check_files
from lifelong_edit.model.tokens import tokens

TRIAL = "Ada Quill was born in Tarsis and works in Oran."  # some faults show only when a text is read


def load(folder: Path, dtype: torch.dtype | None, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The folder's model, in its own dtype unless one is given, and its tokenizer; `ModelError` says what is wrong."""
    _check_device(device)
    with blamed_on(folder):
        check_files(folder)
        config = checked_config(folder)
        if (folder / GENERATION).is_file():
            with blamed_on(folder / GENERATION):
                GenerationConfig.from_pretrained(folder, local_files_only=True)
        model: Any = _model(folder, config, dtype)
        with blamed_on(folder / "tokenizer*.json"):
            given = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False, local_files_only=True)
            tokenizer = checked_tokenizer(given, model)
        return model.to(device), tokenizer


def checked_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerFast:
    """The tokenizer, if it gives character offsets and only ids that the model has, also for a text."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"{type(tokenizer).__name__} gives no character offsets, which locate a subject. "
            "Save the model with a fast tokenizer (tokenizer.json)."
        )
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    used = tokens(tokenizer, TRIAL)[0]  # with what is put around a text, which need not be in the vocabulary
    largest = max([*tokenizer.get_vocab().values(), *used], default=-1)
    if not 0 <= largest < rows:
        raise ModelError(
            f"The tokenizer's largest token id is {largest}, the model embeds {rows} ids. "
            "Use the model's own tokenizer, or resize its embeddings."
        )
    return tokenizer


def _check_device(device: str) -> None:
    """Raise `ModelError` unless a number that is put on the device can be read again."""
    try:
        torch.ones(1, device=device).item()
    except Exception as error:  # a build without the device asserts, others miss a module, and meta holds no numbers
        raise ModelError(
            f"The device {device!r} is not available, or holds no numbers: {error} Choose another, such as 'cpu'."
        ) from error


def _model(folder: Path, config: PreTrainedConfig, dtype: torch.dtype | None) -> PreTrainedModel:
    """The model on the CPU; `ModelError` names weights that are missing, of another shape, or not finite."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype or "auto",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # they are told here, by name
        output_loading_info=True,
    )
    model: PreTrainedModel
    model, report = loaded
    if report["missing_keys"]:
        raise ModelError(
            f"{folder} lacks the weights {sorted(report['missing_keys'])[:5]}; they would be random. "
            "Export the whole causal language model."
        )
    for name, stored, wanted in report["mismatched_keys"]:
        raise ModelError(
            f"{folder} holds {name} as {list(stored)}, its config.json describes {list(wanted)}. "
            "Give the config of these weights."
        )
    for name, weight in model.named_parameters():
        if weight.numel() and not all(torch.isfinite(end) for end in torch.aminmax(weight)):
            raise ModelError(
                f"{folder}: {name} holds values that are not finite as {weight.dtype}. Get the weights again, or open "
                "them in another dtype."
            )
    return model
