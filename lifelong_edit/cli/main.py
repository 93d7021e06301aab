"""The command `lifelong-edit`: one file a command group. Errors go to standard error with their own exit code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lifelong_edit.cli import (
    browsing,
    changing,
    comparing,
    exporting,
    founding,
    importing,
    keeping,
    looking,
    making,
    measuring,
    options,
    planning,
    reporting,
    verifying,
)
from lifelong_edit.errors import LifelongEditError

INTERRUPTED = 130
EXIT_CODES = (
    "Exit codes: 0 done, 1 other error, 2 usage or request, 3 health stop, 4 corrupt store, 5 reading or writing "
    "failed, 6 store busy, 7 no trustworthy solution, 8 model does not fit, 130 interrupted."
)
GROUPS = {
    "Start": (founding.init, founding.stats),
    "Write": (planning.plan, making.apply, making.stream, making.replace, making.protect),
    "Take back": (changing.revert, changing.restore),
    "Look": (
        looking.status,
        looking.log,
        looking.show,
        comparing.diff,
        comparing.blame,
        comparing.checkout,
        reporting.report,
        browsing.ui,
    ),
    "Measure": (
        measuring.measure,
        measuring.evaluate,
        measuring.calibrate,
        measuring.relax,
        measuring.repair,
    ),
    "Exchange": (importing.import_, exporting.export),
    "Look after": (
        keeping.tag,
        verifying.verify,
        keeping.backup,
        keeping.clone,
        keeping.gc,
        keeping.doctor,
    ),
}
NAMES = {"evaluate": "eval", "import_": "import"}  # commands that are called otherwise than their functions


class Verbs(TyperGroup):
    """The commands; an error the engine raised on purpose ends one with a line and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except LifelongEditError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
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
for panel, commands in GROUPS.items():
    for command in commands:
        app.command(NAMES.get(command.__name__), rich_help_panel=panel)(command)


@app.callback()
def about() -> None:
    """Sequential lifelong knowledge editing for causal language models, with a ledger."""


@app.command(rich_help_panel="Try")
def demo(
    model: Annotated[Path, typer.Option(help="Folder of the bundled model.")] = Path("checkpoints/tiny-world"),
    stores: Annotated[Path, typer.Option(help="Where the demo's stores are made.")] = Path("checkpoints"),
    quick: Annotated[bool, typer.Option("--quick", help="60 edits instead of 300, and a shorter exam.")] = False,
    seed: Annotated[int, typer.Option(help="Which people are edited, and how.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Stream edits into the bundled model, show what was kept, forgotten and disturbed, and take one edit back.

    Example: lifelong-edit demo --quick
    """
    from lifelong_edit.cli.demo import run

    run(model, stores, quick, seed, as_json)


def main() -> None:
    """Run the command line; warnings are lines on standard error."""
    warnings.showwarning = lambda message, *_args, **_kwargs: typer.echo(f"warning: {message}", err=True)
    app()
