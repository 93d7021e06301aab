"""The options that many commands share, and how the store and the model that they name are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lifelong_edit.store import Entry, History, Store

if TYPE_CHECKING:
    import torch

    from lifelong_edit.engine import LifelongEditor, Reader

    Opened = TypeVar("Opened", bound=Reader)


class Dtype(str, Enum):
    """The number formats a model can be opened in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


MODEL_HELP = "Folder of the unedited base model, in safetensors."

StorePath = Annotated[Path, typer.Option("--store", envvar="LIFELONG_EDIT_STORE", help="Folder of the store.")]
Model = Annotated[Path, typer.Option("--model", envvar="LIFELONG_EDIT_MODEL", help=MODEL_HELP)]
AnyModel = Annotated[Path | None, typer.Option("--model", envvar="LIFELONG_EDIT_MODEL", help=MODEL_HELP)]
Number = Annotated[Dtype | None, typer.Option("--dtype", help="Open the model in this dtype instead of its own.")]
Device = Annotated[str, typer.Option("--device", help="Where the model computes, as PyTorch names it.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Who does it; by default the user this runs as.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; kept in the ledger.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Source = Annotated[str, typer.Argument(metavar="FILE", help="A .jsonl file, one request a line; - is standard input.")]
Method = Annotated[str, typer.Option("--method", help="How a batch is solved: memit, emmet or rome.")]
Ridge = Annotated[float | None, typer.Option("--ridge", help="The ridge itself, instead of the method's own.")]
Probe = Annotated[
    int, typer.Option("--probe", min=0, help="How many of the most affected facts are measured before and after.")
]
Facts = Annotated[list[str] | None, typer.Argument(metavar="FACT", help="Ids of facts, or how they begin.")]

Profile = Annotated[
    str | None,
    typer.Option("--profile", help="A profile: its file, or the name of one that ships; by default the model's own."),
]

STORE = Path("store")
CPU = "cpu"


@dataclass(frozen=True)
class OpenStore:
    """A store opened without its model: format, entries (oldest first), and the facts as the entries leave them."""

    store: Store
    format: int
    entries: list[Entry]
    history: History

    @property
    def head(self) -> Entry:
        """The newest entry."""
        return self.entries[-1]


@contextmanager
def open_store(root: Path, read_only: bool = True) -> Iterator[OpenStore]:
    """Open the store in `root` and read its ledger; neither torch nor transformers is loaded."""
    with Store.open(root, read_only) as store:
        entries = store.founded_entries()
        yield OpenStore(store, store.ledger.format, entries, History.of(entries))


def open_editor(root: Path, model: Path, dtype: Dtype | None, device: str) -> LifelongEditor:
    """Open the store and its model for writing."""
    from lifelong_edit.engine import LifelongEditor

    return _opened(LifelongEditor, root, model, False, dtype, device)


def open_reader(root: Path, model: Path | None, dtype: Dtype | None, device: str, at: int | None = None) -> Reader:
    """Open the store and, when one is given, its model for reading; with `at`, also when a later record is damaged."""
    from lifelong_edit.engine import Reader

    return _opened(Reader, root, model, True, dtype, device, at)


def torch_dtype(dtype: Dtype | None) -> torch.dtype | None:
    """Translate the option into PyTorch's dtype."""
    import torch

    found: torch.dtype | None = None if dtype is None else getattr(torch, dtype.value)
    return found


def hide_loading_bars() -> None:
    """Turn off the progress bars that transformers shows while it loads a model."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _opened(
    kind: type[Opened],
    root: Path,
    model: Path | None,
    read_only: bool,
    dtype: Dtype | None,
    device: str,
    at: int | None = None,
) -> Opened:
    hide_loading_bars()
    return kind.open(root, model, read_only, torch_dtype(dtype), device, at)
