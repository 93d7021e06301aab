"""The command `lifelong-edit`: one module a panel of `--help`. Errors go to standard error with their own exit code."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from lifelong_edit.cli import edit, history, maintain, measure, prepare, share, start, tune
from lifelong_edit.errors import LifelongEditError, StoreError
from lifelong_edit.escapes import printable_lines

INTERRUPTED = 130
EXIT_CODES = (
    "Exit codes: 0 done, 1 other error, 2 usage or request, 3 health stop, 4 corrupt store, 5 reading or writing "
    "failed, 6 store busy, 7 no trustworthy solution, 8 model does not fit, 9 facts not said, 130 interrupted."
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {  # one module each, named like it
    "Start": (start.init, start.stats, tune.tune, start.demo),
    "Prepare": (prepare.import_, prepare.wordings, prepare.plan),
    "Edit": (edit.apply, edit.stream, edit.replace, edit.protect, edit.revert, edit.restore),
    "History": (history.status, history.log, history.show),
    "Measure": (
        measure.measure,
        measure.evaluate,
        measure.calibrate,
        measure.compare,
        measure.diff,
        measure.blame,
        measure.why,
        measure.checkout,
    ),
    "Share": (share.report, share.ui, share.export),
    "Maintain": (
        maintain.relax,
        maintain.repair,
        maintain.tag,
        maintain.verify,
        maintain.backup,
        maintain.clone,
        maintain.gc,
        maintain.doctor,
    ),
}
NAMES = {"evaluate": "eval", "import_": "import"}  # commands that are called otherwise than their functions


class Verbs(TyperGroup):
    """The group of commands. Errors of this package, and of files, become a line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an interrupt becomes a line and exit code 130."""
        try:
            return super().invoke(ctx)
        except LifelongEditError as error:
            typer.echo(printable_lines(f"error: {error}"), err=True)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the answer has read enough
                raise
            typer.echo(printable_lines(f"error: {error}. Check the path and the disk."), err=True)
            raise typer.Exit(StoreError.exit_code) from error
        except KeyboardInterrupt:
            typer.echo("interrupted: what was committed is kept. The same command goes on from there.", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(NAMES.get(command.__name__), rich_help_panel=panel)(command)


@app.callback()
def about() -> None:
    """Sequential lifelong knowledge editing for causal language models, with a ledger."""


def _warn(message: object, *_args: object, **_kwargs: object) -> None:
    typer.echo(printable_lines(f"warning: {message}"), err=True)


def main() -> None:
    """Run the command line; warnings are lines on standard error."""
    warnings.showwarning = _warn
    app()
