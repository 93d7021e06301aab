"""Export the change of every edited weight as one safetensors file, dense or as thin factors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from lifelong_edit.engine.reader import Reader
from lifelong_edit.export.card import origin
from lifelong_edit.outputs import new_file, size_of


@dataclass(frozen=True)
class Delta:
    """A written delta: its file, and the rank of each weight's change."""

    path: Path
    bytes: int
    ranks: dict[str, int]


def export_delta(reader: Reader, destination: Path, ref: int | str | None = None, dense: bool = False) -> Delta:
    """Write W - W_0 of every edited weight after entry `ref`: float32, [d_out, d_in] whatever way the model stores it.

    Factored, ``<weight>/left`` [d_out, r] and ``<weight>/right`` [d_in, r] with delta = left right'; dense,
    ``<weight>/delta``. The file's metadata has the entry's digest and the fingerprint of the base.
    """
    view = reader.at(reader.head.seq if ref is None else ref)
    tensors: dict[str, torch.Tensor] = {}
    for name, pair in view.deltas.items():
        own = {"delta": pair.dense()} if dense else {"left": pair.left, "right": pair.right}
        tensors |= {f"{name}/{part}": value.float().contiguous() for part, value in own.items()}
    with new_file(destination) as file:
        save_file(tensors, file, metadata={"format": "pt", **origin(reader, view)})
    return Delta(destination, size_of(destination), {name: pair.rank for name, pair in view.deltas.items()})
