"""The options that several commands share, each told once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(str, Enum):
    """The number formats a model can be opened in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Red(str, Enum):
    """What to do with a commit that would take a vital sign over its red limit."""

    stop = "stop"
    warn = "warn"
    halve = "halve"


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

STORE = Path("store")
CPU = "cpu"
METHOD = "memit"
PROBED = 20
