"""The command `lifelong-edit`: one file a command group. Errors go to standard error with their own exit code."""

from __future__ import annotations

import sys
import warnings

import typer

from lifelong_edit.cli.demo import demo
from lifelong_edit.errors import LifelongEditError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(demo)


@app.callback()
def about() -> None:
    """Sequential lifelong knowledge editing for causal language models, with a ledger."""


def main() -> None:
    """Run the command line; an error the engine raised on purpose ends it with a line and its exit code."""
    warnings.showwarning = lambda message, *_args, **_kwargs: typer.echo(f"warning: {message}", err=True)
    try:
        app()
    except LifelongEditError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
