"""Opening a store: its ledger alone, which needs no model and loads neither torch nor transformers, or all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lifelong_edit.cli.options import Dtype
from lifelong_edit.errors import StoreError
from lifelong_edit.store import Entry, History, Store

if TYPE_CHECKING:
    import torch

    from lifelong_edit.engine import LifelongEditor, Reader

    Opened = TypeVar("Opened", bound=Reader)


@dataclass(frozen=True)
class Past:
    """A store, its format, its entries, oldest first, and the history they tell."""

    store: Store
    format: int
    entries: list[Entry]
    history: History

    @property
    def head(self) -> Entry:
        """The newest entry."""
        return self.entries[-1]


@contextmanager
def past(root: Path, read_only: bool = True) -> Iterator[Past]:
    """What the ledger of the store in `root` says."""
    with Store.open(root, read_only) as store:
        entries = store.ledger.entries()
        if not entries:
            raise StoreError(f"The store in {root} was never finished. Run init again in this folder.")
        yield Past(store, store.ledger.format, entries, History.of(entries))


def editor(root: Path, model: Path, dtype: Dtype | None, device: str) -> LifelongEditor:
    """The store and its model, to change them."""
    from lifelong_edit.engine import LifelongEditor

    return _opened(LifelongEditor, root, model, False, dtype, device)


def reader(root: Path, model: Path | None, dtype: Dtype | None, device: str) -> Reader:
    """The store and, when one is given, its model, to look at them."""
    from lifelong_edit.engine import Reader

    return _opened(Reader, root, model, True, dtype, device)


def torch_dtype(dtype: Dtype | None) -> torch.dtype | None:
    """PyTorch's name for it."""
    import torch

    found: torch.dtype | None = None if dtype is None else getattr(torch, dtype.value)
    return found


def hush() -> None:
    """No bars of transformers: loading a model is not the work that was asked for."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _opened(
    kind: type[Opened], root: Path, model: Path | None, read_only: bool, dtype: Dtype | None, device: str
) -> Opened:
    hush()
    return kind.open(root, model, read_only, torch_dtype(dtype), device)
