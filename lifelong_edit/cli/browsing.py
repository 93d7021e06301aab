"""A store's history in the browser, with Datasette: `ui`."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.opening import past
from lifelong_edit.cli.output import tell
from lifelong_edit.errors import RequestError
from lifelong_edit.store import Entry

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
    from lifelong_edit.report.browse import NAME, metadata, write_browsable

    with past(store) as seen:
        entries, head = seen.entries, seen.head.digest
    if to is not None:
        described = _kept(entries, to, metadata(str(store), head, to.stem))
        document = {"database": to, "metadata": described, "entries": len(entries)}
        return tell(as_json, document, f"datasette {to} --metadata {described}")
    if importlib.util.find_spec("datasette") is None:
        raise RequestError("Browsing needs an extra: pip install 'lifelong-edit[ui]'.")
    with tempfile.TemporaryDirectory() as folder:
        database, described = Path(folder) / f"{NAME}.db", Path(folder) / "metadata.json"
        write_browsable(entries, database)
        described.write_text(json.dumps(metadata(str(store), head), indent=2), encoding="utf-8")
        arguments = ["--immutable", str(database), "--metadata", str(described)]
        arguments += ["--host", host, "--port", str(port), *(["--open"] if show else [])]
        tell(as_json, {"host": host, "port": port, "entries": len(entries)}, f"http://{host}:{port}, Ctrl-C ends it")
        _serve(arguments)


def _kept(entries: list[Entry], to: Path, told: dict[str, Any]) -> Path:
    """Write the database and, to the path that is given back, its metadata: both or, when a file is there, neither."""
    from lifelong_edit.export.placing import placed
    from lifelong_edit.report.browse import write_browsable

    described = to.with_suffix(".json")
    if described == to:
        raise RequestError(f"{to} is where the metadata goes. Name the database otherwise: {to.with_suffix('.db')}.")
    with placed(described) as text, placed(to) as database:
        write_browsable(entries, database)
        text.write_text(json.dumps(told, indent=2), encoding="utf-8")
    return described


def _serve(arguments: list[str]) -> None:
    """Run Datasette's own `serve` until somebody ends it; a server that does not start is an error."""
    from datasette.cli import cli

    try:
        cli.main(["serve", *arguments], standalone_mode=False)
    except KeyboardInterrupt:
        return
    except SystemExit as ended:
        if ended.code:
            raise RequestError("Datasette did not start; why is above. Is the port free? Give --port.") from ended
