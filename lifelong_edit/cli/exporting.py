"""Edited models and ledgers for other tools: `export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.opening import past
from lifelong_edit.cli.output import counted, tell
from lifelong_edit.errors import RequestError
from lifelong_edit.store.history import entry_named


class Form(str, Enum):
    """What an export is."""

    hf = "hf"
    peft = "peft"
    delta = "delta"
    jsonl = "jsonl"


def export(
    form: Annotated[Form, typer.Argument(help="hf (a model), peft (a LoRA adapter), delta (weights), jsonl (ledger).")],
    destination: Annotated[Path, typer.Argument(help="A new folder (hf, peft) or file (delta, jsonl).")],
    store: options.StorePath = options.STORE,
    model: options.AnyModel = None,
    at: Annotated[str | None, typer.Option("--at", help="The entry to show: seq, tag or digest.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="peft: truncate to this rank, and measure the cost.")] = None,
    dense: Annotated[bool, typer.Option("--dense", help="delta: whole matrices instead of factors.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written; write nothing.")] = False,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Write an edited model, its change or its history for other tools. What is written is complete, or not there.

    hf: a folder that plain transformers loads, opened again and compared before success is reported. peft: a LoRA
    adapter, exact unless --rank is given. delta: W - W_0 as safetensors. jsonl: the ledger with its hash chain.

    Example: lifelong-edit export peft adapter --model checkpoints/tiny-world
    """
    if form != Form.jsonl and model is None:
        raise RequestError("The weights are the model's. Give its folder: --model, or LIFELONG_EDIT_MODEL.")
    with past(store) as seen:
        until = seen.head if at is None else entry_named(seen.entries, at)
        entries, facts = seen.entries[: until.seq + 1], len(seen.history.active)
    if dry_run:
        document: Any = {"form": form, "path": destination, "seq": until.seq, "written": False}
        text = f"{form.value} of entry {until.seq} ({counted(facts, 'active fact')} now) would go to {destination}."
        return tell(as_json, document, f"{text} Nothing is written.")
    if form == Form.jsonl:
        from lifelong_edit.export import export_jsonl

        count = export_jsonl(entries, destination)
        return tell(as_json, {"path": destination, "entries": count}, f"{destination}: {counted(count, 'entry')}")
    with opening.reader(store, model, dtype, device) as reader:
        document, text = _exported(form, reader, destination, until.seq, rank, dense)
    tell(as_json, document, text)


def _exported(form: Form, reader: Any, destination: Path, seq: int, rank: int | None, dense: bool) -> tuple[Any, str]:
    """What was written, as a document and as text."""
    from lifelong_edit.export import export_delta, export_hf, export_peft

    if form == Form.hf:
        model = export_hf(reader, destination, seq)
        told = f"opened again: equal parameters, log-probabilities within {model.difference:.0e}"
        return model, f"{destination}: {model.bytes:,} bytes, {counted(model.facts, 'fact')}; {told}"
    if form == Form.delta:
        delta = export_delta(reader, destination, seq, dense)
        return delta, f"{destination}: {delta.bytes:,} bytes, {_ranks(delta.ranks)}"
    adapter = export_peft(reader, destination, seq, rank)
    told = f"relative error {adapter.error:.1e}"
    if adapter.efficacy:
        told += ", efficacy {:.3f} exact and {:.3f} with the adapter".format(*adapter.efficacy)
    return adapter, f"{destination}: {adapter.bytes:,} bytes, {_ranks(adapter.ranks)}, {told}"


def _ranks(ranks: dict[str, int]) -> str:
    return ", ".join(f"rank {rank} in {name}" for name, rank in ranks.items())
