"""Which model this is: a digest of what it computes with, not of the files it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import canonical_json
from lifelong_edit.model.editable import EditableModel

SHAPE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


def fingerprint(editable: EditableModel, replacing: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256, as 64 hex digits, over parameter names and values, model type, shapes, vocabulary and merges.

    `replacing` maps names of edited weights to [d_out, d_in] tensors that stand in for the live values: with the base
    weights it gives the fingerprint of the base while edits are live. Half-precision values count as the float32
    numbers they are, so a half-precision checkpoint opened in float32 keeps its fingerprint; a cast that rounds gives
    another model.
    """
    layers = {editable.weight_name(layer): layer for layer in range(editable.layers)}
    replaced = replacing or {}
    if unknown := sorted(set(replaced) - set(layers)):
        raise RequestError(f"{unknown} are not edited weights of this model; those are {sorted(layers)}.")
    digest = hashlib.sha256(canonical_json([_shape(editable.model.config), _words(editable.tokenizer)]).encode())
    parameters: dict[str, Tensor] = dict(editable.model.named_parameters(remove_duplicate=False))
    for name in sorted(parameters):
        if name in replaced:
            value = editable.cast(layers[name], replaced[name])
        elif name in layers:
            value = editable.weight(layers[name])
        else:
            value = parameters[name]
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        digest.update(canonical_json([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    """The entries' bytes in row-major order, in the tensor's own dtype."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _shape(config: PreTrainedConfig) -> dict[str, Any]:
    return {name: getattr(config, name, None) for name in ("model_type", *SHAPE_FIELDS)}


def _words(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Vocabulary, merges and added tokens; a merge is one text in some versions of tokenizers, a pair in others."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = state["model"].get("merges", [])
    return {
        "vocabulary": state["model"]["vocab"],
        "merges": [merge.split(" ") if isinstance(merge, str) else merge for merge in merges],
        "added": [[token["id"], token["content"], token["special"]] for token in state["added_tokens"]],
    }
