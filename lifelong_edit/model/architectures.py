"""What differs between model types, as data: one row each."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from lifelong_edit.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Architecture:
    """Where a model type keeps its blocks and, inside a block, the MLP's output projection.

    `after_write` names the block's module that stands between that projection and the residual stream; it is
    None where the projection's output is added to the stream as it is.
    """

    blocks: str
    write: str
    after_write: str | None = None


ARCHITECTURES = {
    "gpt2": Architecture(blocks="transformer.h", write="mlp.c_proj"),
    "gpt_neox": Architecture(blocks="gpt_neox.layers", write="mlp.dense_4h_to_h"),
    "llama": Architecture(blocks="model.layers", write="mlp.down_proj"),
    "gemma2": Architecture(blocks="model.layers", write="mlp.down_proj", after_write="post_feedforward_layernorm"),
    "gemma3_text": Architecture(blocks="model.layers", write="mlp.down_proj", after_write="post_feedforward_layernorm"),
}


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """The table's row for this configuration; `UnsupportedModel` names the types that have one."""
    return architecture_named(config.model_type)


def architecture_named(model_type: object) -> Architecture:
    """The table's row for a model type; `UnsupportedModel` names the types that have one."""
    row = ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    if row is None:
        raise UnsupportedModel(
            f"Models of type {str(model_type)[:60]!r} cannot be edited: the table has "
            f"{', '.join(sorted(ARCHITECTURES))}. Add a row to ARCHITECTURES."
        )
    return row
