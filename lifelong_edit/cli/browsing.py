"""A store's history in the browser, with Datasette: `ui`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.opening import past
from lifelong_edit.cli.output import tell
from lifelong_edit.errors import RequestError

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
    told = json.dumps(metadata(str(store), head), indent=2)
    if to is not None:
        described = to.with_suffix(".json")
        write_browsable(entries, to)
        described.write_text(told, encoding="utf-8")
        document = {"database": to, "metadata": described, "entries": len(entries)}
        return tell(as_json, document, f"datasette {to} --metadata {described}")
    if importlib.util.find_spec("datasette") is None:
        raise RequestError("Browsing needs an extra: pip install 'lifelong-edit[ui]'.")
    with tempfile.TemporaryDirectory() as folder:
        database, described = Path(folder) / f"{NAME}.db", Path(folder) / "metadata.json"
        write_browsable(entries, database)
        described.write_text(told, encoding="utf-8")
        command = [sys.executable, "-m", "datasette", "serve", "--immutable", str(database), "--metadata"]
        command += [str(described), "--host", host, "--port", str(port), *(["--open"] if show else [])]
        tell(as_json, {"host": host, "port": port, "entries": len(entries)}, f"http://{host}:{port}, Ctrl-C ends it")
        _serve(command)


def _serve(command: list[str]) -> None:
    """Run the server until it ends or somebody ends this; a server that fails is an error."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return
    if code:
        raise RequestError(f"Datasette ended with code {code}; what it said is above. Is the port free? Give --port.")
