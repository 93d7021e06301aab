"""What experiments leave: raw rows as JSON lines, a page whose tables stand below its own text; and how ranks agree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor


def rows_of(raw: Path) -> list[dict[str, Any]]:
    """What was measured so far: the records of a JSONL file, none where there is no file."""
    return [json.loads(line) for line in raw.read_text("utf-8").splitlines()] if raw.is_file() else []


def write_below(page: Path, marker: str, text: str, above: str = "") -> None:
    """Put `text` below the marker in `page`, whose own text above it stays; a new page begins with `above`."""
    own = page.read_text("utf-8").split(marker)[0] if page.is_file() else above
    page.write_text(f"{own}{marker}\n\n{text}\n", encoding="utf-8")


def markdown(
    rows: Iterable[Sequence[object]], heads: Sequence[str], floats: str = ".3f", texts: Sequence[int] = ()
) -> str:
    """A table for a page, numbers by the format `floats`; cells of the columns `texts` stay as they are."""
    text: str = tabulate(rows, heads, "github", floatfmt=floats, disable_numparse=list(texts))
    return text


def spearman(a: Sequence[float] | Tensor, b: Sequence[float] | Tensor) -> float:
    """Spearman's rank correlation; equal values are ranked in their order."""
    ranks = [torch.as_tensor(values).argsort(stable=True).argsort().double() for values in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])
