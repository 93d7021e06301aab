"""Panel Share: `export`, `report`, `ui` hand models, pages and tables to other tools and people."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.options import open_store
from lifelong_edit.cli.text import counted, print_result
from lifelong_edit.errors import RequestError
from lifelong_edit.outputs import new_file
from lifelong_edit.store import Entry
from lifelong_edit.store.history import entry_named

if TYPE_CHECKING:
    from lifelong_edit.engine import Reader


class Form(str, Enum):
    """The forms of an export."""

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
    with open_store(store) as seen:
        until = seen.head if at is None else entry_named(seen.entries, at)
        entries, facts = seen.entries[: until.seq + 1], len(seen.history.active)
    if dry_run:
        document: Any = {"form": form, "path": destination, "seq": until.seq, "written": False}
        text = f"{form.value} of entry {until.seq} ({counted(facts, 'active fact')} now) would go to {destination}."
        return print_result(as_json, document, f"{text} Nothing is written.")
    if form == Form.jsonl:
        from lifelong_edit.export import export_jsonl

        count = export_jsonl(entries, destination)
        return print_result(
            as_json, {"path": destination, "entries": count}, f"{destination}: {counted(count, 'entry')}"
        )
    with options.open_reader(store, model, dtype, device) as reader:
        document, text = _exported(form, reader, destination, until.seq, rank, dense)
    print_result(as_json, document, text)


def _exported(
    form: Form, reader: Reader, destination: Path, seq: int, rank: int | None, dense: bool
) -> tuple[Any, str]:
    """Write the export; give what it is, as a document and as text."""
    from lifelong_edit.export import export_delta, export_hf, export_peft
    from lifelong_edit.export.hf import TOLERANCE

    if form == Form.hf:
        model = export_hf(reader, destination, seq)
        told = f"opened again: equal parameters, log-probabilities within {TOLERANCE:g}"
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


def report(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The .html file; an earlier report is replaced.")] = Path(
        "report.html"
    ),
    store: options.StorePath = options.STORE,
    model: options.AnyModel = None,
    png: Annotated[Path | None, typer.Option(help="A folder for the same pictures as PNGs; needs Chromium.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the page and tell its size; write nothing.")] = False,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Write one HTML page about the store: retention, forgetting, vital signs, drift, capacity, time line, worst facts.

    It needs no network. With --model it has every active fact's risk and predicted residual.

    Example: lifelong-edit report report.html --model checkpoints/tiny-world
    """
    from lifelong_edit.report.page import render, write_report
    from lifelong_edit.report.story import story_of

    deep = model is not None
    with options.open_reader(store, model, dtype, device) as reader:
        if dry_run:
            size = len(render(story_of(reader, str(store), deep), deep).encode())
        else:
            size = write_report(reader, str(store), out, deep, png)
    document = {"path": out, "bytes": size, "pictures": png, "dry_run": dry_run}
    print_result(as_json, document, f"{out}: {size:,} bytes{' would be written' if dry_run else ''}")


To = Annotated[Path | None, typer.Option("--to", help="Write the database and its metadata here; serve nothing.")]
Show = Annotated[bool, typer.Option("--open", help="Open a browser.")]


def ui(
    store: options.StorePath = options.STORE,
    host: Annotated[str, typer.Option(help="Where to listen; by default for this computer alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8001,
    show: Show = False,
    to: To = None,
    as_json: options.Json = False,
) -> None:
    """Browse entries, facts, scores and figures with Datasette: filters, full-text search, queries, SQL, JSON, CSV.

    It serves a copy made from the ledger, and ends with Ctrl-C. With --to FILE.db the copy is kept, with FILE.json
    beside it, for `datasette FILE.db --metadata FILE.json`.

    Example: lifelong-edit ui --port 8001
    """
    from lifelong_edit.report.database import NAME, metadata, write_browsable

    with open_store(store) as seen:
        entries, head = seen.entries, seen.head.digest
    if to is not None:
        described = _kept(entries, to, metadata(str(store), head, to.stem))
        document = {"database": to, "metadata": described, "entries": len(entries)}
        return print_result(as_json, document, f"datasette {to} --metadata {described}")
    if importlib.util.find_spec("datasette") is None:
        raise RequestError("Browsing needs an extra: pip install 'lifelong-edit[ui]'.")
    with tempfile.TemporaryDirectory() as folder:
        database, described = Path(folder) / f"{NAME}.db", Path(folder) / "metadata.json"
        write_browsable(entries, database)
        described.write_text(json.dumps(metadata(str(store), head), indent=2), encoding="utf-8")
        arguments = ["--immutable", str(database), "--metadata", str(described)]
        arguments += ["--host", host, "--port", str(port), *(["--open"] if show else [])]
        print_result(
            as_json, {"host": host, "port": port, "entries": len(entries)}, f"http://{host}:{port}, Ctrl-C ends it"
        )
        _serve(arguments, host)


def _kept(entries: list[Entry], to: Path, told: dict[str, Any]) -> Path:
    """Write the database and its metadata beside it, both or neither; give the metadata's path."""
    from lifelong_edit.report.database import write_browsable

    described = to.parent / f"{to.stem}.json"
    if described == to:
        raise RequestError(f"{to} is where the metadata goes. Name the database otherwise: {to.with_suffix('.db')}.")
    with new_file(described) as text:
        text.write_text(json.dumps(told, indent=2), encoding="utf-8")
        write_browsable(entries, to)
    return described


def _serve(arguments: list[str], host: str) -> None:
    """Run Datasette's own `serve` for requests to `host` until somebody ends it; one that cannot start is an error."""
    from datasette.cli import cli
    from datasette.plugins import pm

    from lifelong_edit.report.hosts import HostCheck

    check = HostCheck(host)
    pm.register(check)
    try:
        cli.main(["serve", *arguments], standalone_mode=False)
    except KeyboardInterrupt:
        return
    except SystemExit as ended:
        if ended.code:
            raise RequestError("Datasette did not start; why is above. Is the port free? Give --port.") from ended
    finally:
        pm.unregister(check)
