"""Proving a store sound: `verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.output import counted, progress, table, tell
from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.store import Inspection, Store, inspect

if TYPE_CHECKING:
    from lifelong_edit.engine.inspect.verify import Audit


def verify(
    store: options.StorePath = options.STORE,
    head: Annotated[str | None, typer.Option(help="A head's digest, all of it, that was kept elsewhere.")] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Fold the weights anew after every entry.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Compare recorded keys with those of the live model.")] = False,
    model: options.AnyModel = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Check everything the store promises, and list all that is wrong: exit code 4.

    Files are checked without a model; --replay and --keys compute with it. Without --head, nobody can tell a ledger
    whose last entries were cut off.

    Example: lifelong-edit verify --replay --model checkpoints/tiny-world
    """
    if (replay or keys) and model is None:
        raise RequestError("--replay and --keys compute with the model. Give --model, or set LIFELONG_EDIT_MODEL.")
    with Store.open(store, read_only=True) as opened:
        inspection, audit = inspect(opened, head), None
    if model is not None and (replay or keys) and not inspection.problems:
        with opening.reader(store, model, dtype, device) as reader, progress("entry") as told:
            audit = reader.verify(head, replay, keys, told)
    problems = inspection.problems if audit is None else audit.problems
    tell(as_json, _document(inspection, audit, problems), _text(inspection, audit, problems))
    if problems:
        raise StoreCorrupt("\n  ".join((f"the store has {counted(len(problems), 'problem')}:", *problems)))


def _document(inspection: Inspection, audit: Audit | None, problems: tuple[str, ...]) -> dict[str, Any]:
    figures = audit and {name: getattr(audit, name) for name in ("rebuilt", "largest_difference", "key_drift", "notes")}
    return {
        "sound": not problems,
        "problems": problems,
        "head": inspection.head,
        "checks": inspection.checks,
        "strays": inspection.strays,
        "weights": figures,
    }


def _text(inspection: Inspection, audit: Audit | None, problems: tuple[str, ...]) -> str:
    rows = [[check.name, check.examined, len(check.problems)] for check in inspection.checks]
    lines = [table(rows, ["check", "examined", "problems"]), ""]
    if audit is not None:
        lines.append(
            f"weights: {counted(audit.rebuilt, 'state')} rebuilt, largest difference between fold and recorded deltas "
            f"{audit.largest_difference:.1e} of the change"
        )
        lines += [f"keys: {name} drifted by {size:.1e} at most" for name, size in audit.key_drift.items()]
        lines += [f"note: {note}" for note in audit.notes]
    if inspection.strays:
        lines.append(f"{counted(len(inspection.strays), 'file')} that nobody needs; gc removes them")
    return "\n".join([*lines, f"{counted(len(problems), 'problem')}; head {inspection.head}"])
