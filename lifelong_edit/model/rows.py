"""Token sequences of different lengths lined up on one column, and the key/value cache of the columns before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lifelong_edit.errors import ModelError

Past = tuple[tuple[Tensor, Tensor], ...]  # keys and values of every layer, each [B, heads, columns, d_head]


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """B token sequences in T columns; every row's pivot stands in column `pivot`, its token p in `shifts[i] + p`.

    All are [B, T]. `mask` is 0 on left padding only: right padding is hidden from every token by causality, and a
    query that sees at least itself is never NaN. Outputs at padded places mean nothing. What left padding computes is
    finite in every dtype but float64 with eager attention, whose softmax is float32: use sdpa there.
    """

    ids: Tensor
    mask: Tensor
    position_ids: Tensor
    shifts: Tensor  # [B]
    pivot: int


def pad_rows(
    sequences: Sequence[Sequence[int]], pivots: Sequence[int], pad_id: int, device: torch.device | str = "cpu"
) -> PaddedRows:
    """Pad on the left until all pivots (an index into each sequence) meet, and on the right to one length.

    Position ids count a row's own tokens from 0; a padded place repeats the nearest of them, so none is out of range.
    """
    if not sequences or any(not 0 <= pivot < len(row) for row, pivot in zip(sequences, pivots, strict=True)):
        raise ModelError("Rows need at least one sequence, each with its pivot inside it.")
    pivot = max(pivots)
    shifts = torch.tensor([pivot - own for own in pivots])
    lengths = torch.tensor([len(row) for row in sequences])
    places = torch.arange(int((shifts + lengths).max())) - shifts[:, None]  # [B, T], negative on left padding
    own = (places >= 0) & (places < lengths[:, None])
    ids = torch.full(own.shape, pad_id)
    ids[own] = torch.tensor([token for row in sequences for token in row])
    positions = places.clamp(min=0).minimum(lengths[:, None] - 1)
    mask = (places >= 0).long()
    return PaddedRows(ids.to(device), mask.to(device), positions.to(device), shifts.to(device), pivot)


def whole_cache() -> DynamicCache:
    """An empty cache that keeps every position, to pass to a full forward.

    The cache a model makes by itself drops what a sliding window no longer sees.
    """
    return DynamicCache()


def cropped(cache: DynamicCache, columns: int) -> Past:
    """The keys and values of the first `columns` columns, all layers, apart from any graph and from the cache."""
    layers: list[Any] = cache.layers
    lengths = {layer.keys.shape[-2] for layer in layers}
    if len(lengths) != 1 or max(lengths) < columns or any(layer.is_sliding for layer in layers):
        raise ModelError(f"The cache does not hold the first {columns} columns of every layer. Fill a `whole_cache()`.")

    def first(states: Tensor) -> Tensor:
        return states[:, :, :columns].detach().clone()

    return tuple((first(layer.keys), first(layer.values)) for layer in layers)


def selected(past: Past, rows: Tensor) -> Past:
    """The past of these rows (LongTensor [M], repeats allowed)."""
    return tuple((keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in past)


def fresh_cache(past: Past) -> DynamicCache:
    """A cache for one pass that starts with this past; writing to it does not change the past."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(past):
        cache.update(keys, values, layer)
    return cache
