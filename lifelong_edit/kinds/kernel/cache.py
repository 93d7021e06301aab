"""The pairs of the head, kept so that opening a store need not solve for them again. Derivable: delete them freely.

They are kept with the weights digest they lead to; who uses them checks that they do. That digest is over float32, so
their own bytes have one too: a damaged last bit would spoil what later edits compute from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from lifelong_edit.algebra.system import Pair
from lifelong_edit.errors import StoreError
from lifelong_edit.kinds.kernel.state import Batches, EditedLayer
from lifelong_edit.store.objects import Array, decode, disk_errors, encode, most_bytes, read_file, replace_file

NAME = "head.safetensors"
SIDES = ("left", "right")


def keep_pairs(folder: Path, weights: str, layers: Collection[EditedLayer]) -> None:
    """Keep the pairs of these layers, in place of those kept before; the folder is made if it was deleted.

    Raises what `replace_file` raises.
    """
    tensors = {f"{layer.name}/{side}": getattr(layer.earlier, side).cpu().numpy() for layer in layers for side in SIDES}
    batches = next(iter(layers)).batches
    with disk_errors("creating", folder):
        folder.mkdir(exist_ok=True)
    replace_file(folder / NAME, encode(tensors, _meta(weights, batches, tensors)))


def kept_pairs(
    folder: Path, weights: str, batches: Batches, layers: Collection[EditedLayer]
) -> dict[str, dict[int, Pair]] | None:
    """The pairs kept for these batches and this digest, by weight and seq; None when there are none to be used."""
    rank = sum(len(batch) for batch in batches.values())
    shapes = {
        f"{layer.name}/{side}": (d, rank) for layer in layers for side, d in zip(SIDES, layer.base.shape, strict=True)
    }
    try:
        tensors, meta = decode(read_file(folder / NAME, most_bytes(sum(d * rank for d, rank in shapes.values()))))
    except StoreError:
        return None
    if meta != _meta(weights, batches, tensors) or {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        return None
    sizes = [len(batch) for batch in batches.values()]
    pairs = {}
    for layer in layers:
        sides = (
            torch.split(torch.from_numpy(tensors[f"{layer.name}/{side}"]).to(layer.base.device), sizes, dim=1)
            for side in SIDES
        )
        pairs[layer.name] = {seq: Pair(*both) for seq, both in zip(batches, zip(*sides, strict=True), strict=True)}
    return pairs


def _meta(weights: str, batches: Batches, tensors: Mapping[str, Array]) -> dict[str, object]:
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(tensors[name].tobytes())
    places = [[seq, len(batch)] for seq, batch in batches.items()]
    return {"kind": "pairs", "weights": weights, "batches": places, "content": content.hexdigest()}
