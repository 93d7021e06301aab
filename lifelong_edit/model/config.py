"""The settings of a model folder, checked before anything is built: none loads code, and sizes fit the weights."""

from __future__ import annotations

import copy
import inspect
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from lifelong_edit.errors import ModelError
from lifelong_edit.model.architectures import architecture_named
from lifelong_edit.model.folder import CONFIG, Stored, blamed_on, read_object, stored_weights

ATTENTION = (None, "eager", "sdpa")
EXPERTS = (None, "eager", "batched_mm", "grouped_mm")
DTYPES = (None, "float16", "bfloat16", "float32", "float64")
OFF = (None, False)
# Settings at any depth, and the values of them that need nothing but PyTorch. With others transformers loads a kernel
# from the hub, imports another package, patches its own classes, or reads weights that were not checked.
ALLOWED: dict[str, tuple[object, ...]] = {
    "attn_implementation": ATTENTION,
    "experts_implementation": EXPERTS,
    "dtype": DTYPES,
    "torch_dtype": DTYPES,
    **dict.fromkeys(("compression_config", "distributed_config", "fusion_config", "kernel_config"), OFF),
    **dict.fromkeys(("per_layer_config", "quantization_config", "transformers_weights", "use_kernels"), OFF),
}
COUNT = re.compile(r"n(um)?_")  # how the names of settings begin that say how many of something there are
SPARE = 2**26  # numbers that a model may have beside its weights, in tables of positions and masks


def checked_config(folder: Path) -> PreTrainedConfig:
    """The folder's configuration; nothing is allocated and no code is loaded on the way.

    `ModelError` names the setting that cannot be used and says what to do; `UnsupportedModel` is raised for a model
    type without a row in the table.
    """
    file = folder / CONFIG
    with blamed_on(file):
        settings = read_object(file)
        architecture = architecture_named(settings.get("model_type"))
        _check_settings(file, settings)
    stored = stored_weights(folder)
    with blamed_on(file):
        _check_counts(file, settings, max(stored.tensors, stored.longest))
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        _check_size(file, config, architecture.blocks, stored)
    return config


def _check_settings(file: Path, settings: dict[str, Any]) -> None:
    """Raise `ModelError` for a setting that would load code, is no number, or would replace a part of its class."""
    for key, value in _members(settings):
        allowed = ALLOWED.get(key.lstrip("_").removesuffix("_internal"))
        if allowed is not None and value not in allowed:
            raise ModelError(
                f"{file} sets {key} to {str(value)[:60]!r}. A model is loaded by PyTorch alone, without kernels and "
                f"quantization, so this may be one of {json.dumps(allowed)}. Change it, or export the model that way."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{file} sets {key[:60]!r} to {value}. Give it a finite number.")
    # Transformers sets every key as an attribute, so one that is called like a method would replace the method.
    kind = CONFIG_MAPPING[settings["model_type"]]
    for key in settings:
        own = inspect.getattr_static(kind, key, None)
        if callable(own) or isinstance(own, (classmethod, staticmethod, dict)):
            raise ModelError(f"{file} sets {key!r}, which would replace a part of {kind.__name__}. Take it out.")


def _members(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key and value, at any depth."""
    places: list[Any] = [document]
    while places:
        place = places.pop()
        if isinstance(place, dict):
            yield from place.items()
            places.extend(place.values())
        elif isinstance(place, list):
            places.extend(place)


def _check_counts(file: Path, settings: dict[str, Any], most: int) -> None:
    """Raise `ModelError` for more layers, heads or labels than `most`: lists are made of them before any weight."""
    for key, value in settings.items():
        if COUNT.match(key) and isinstance(value, int) and value > most:
            raise ModelError(
                f"{file} sets {key[:60]!r} to {value}, and no dimension of the weights beside it is above {most}. "
                "Give the config of these weights."
            )


def _check_size(file: Path, config: PreTrainedConfig, blocks: str, stored: Stored) -> None:
    """Raise `ModelError` when the model that is described is far larger than what is stored of it.

    It is built with one block, on PyTorch's meta device, which has shapes and no numbers. Twice what is stored is
    granted, because a weight that is stored once may be tied.
    """
    layers, positions = config.num_hidden_layers, config.max_position_embeddings
    if not 1 <= layers <= stored.tensors or positions < 1:
        raise ModelError(
            f"{file} describes {layers} layers and {positions} positions, and the weights beside it are "
            f"{stored.tensors} tensors. Give the config of these weights."
        )
    shallow = copy.deepcopy(config)
    shallow.num_hidden_layers = 1
    from_config: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = from_config(shallow, trust_remote_code=False)
    needed = _numbers(model) + (layers - 1) * _numbers(model.get_submodule(blocks))
    if needed > 2 * stored.numbers + SPARE:
        raise ModelError(
            f"{file} describes a model of {needed:,} numbers, and the weights beside it are {stored.numbers:,}. "
            "Give the config of these weights."
        )


def _numbers(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
