"""A store as a page to look at: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.output import tell


def report(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The .html file; an earlier one is replaced.")] = Path(
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
    """Write one HTML file about the store: retention, forgetting, vital signs, drift, capacity, time line, worst facts.

    It needs no network. With --model it has every active fact's risk and predicted residual.

    Example: lifelong-edit report report.html --model checkpoints/tiny-world
    """
    from lifelong_edit.report.gather import gather
    from lifelong_edit.report.page import render, write_report

    deep = model is not None
    with opening.reader(store, model, dtype, device) as reader:
        if dry_run:
            size = len(render(gather(reader, str(store), deep), deep).encode())
        else:
            size = write_report(reader, str(store), out, deep, png)
    document = {"path": out, "bytes": size, "pictures": png, "dry_run": dry_run}
    tell(as_json, document, f"{out}: {size:,} bytes{' would be written' if dry_run else ''}")
