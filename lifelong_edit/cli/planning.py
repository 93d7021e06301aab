"""What a file of requests would do, before anything is touched: `plan`, and `--dry-run` of `apply` and `stream`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.output import counted, listed, printable, progress, table, tell
from lifelong_edit.cli.telling import TOP
from lifelong_edit.errors import RequestError
from lifelong_edit.store.history import fact_named

if TYPE_CHECKING:
    from lifelong_edit.engine.estimate.forecast import Cost
    from lifelong_edit.engine.estimate.preview import Preview

UNITS = ("bytes", "kB", "MB", "GB", "TB")


def plan(
    source: options.Source,
    model: options.Model,
    store: options.StorePath = options.STORE,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Requests a commit; by default all in one.")
    ] = None,
    method: options.Method = options.METHOD,
    ridge: options.Ridge = None,
    every: Annotated[bool, typer.Option("--all", help="List everything, not only the first of each kind.")] = False,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Tell what a file would do before anything is touched; exit code 2 when rows of it are bad.

    Bad rows with their lines, duplicates, what would be superseded, facts that share a value, keys that are nearly
    parallel, targets the model says already, the token each subject ends with, and what it would cost: values to
    optimise, capacity, time, bytes.

    Example: lifelong-edit plan facts.jsonl --model checkpoints/tiny-world --batch 10
    """
    foretell(source, model, store, batch, method, ridge, dtype, device, as_json, None if every else TOP)


def foretell(
    source: str,
    model: Path,
    store: Path,
    batch: int | None,
    method: str,
    ridge: float | None,
    dtype: options.Dtype | None,
    device: str,
    as_json: bool,
    limit: int | None = TOP,
) -> None:
    """Print the preview of a source; `RequestError` when rows of it are bad."""
    from lifelong_edit.datasets.jsonl import micro_batches, open_source, source_name
    from lifelong_edit.engine.estimate.preview import preview
    from lifelong_edit.engine.estimate.sources import survey

    name = source_name(source)
    with open_source(source) as lines:
        rows = survey(lines, name)
    batches = [list(rows.requests)] if batch is None else list(micro_batches(rows.requests, batch))
    with opening.reader(store, model, dtype, device) as reader, progress("fact") as told:
        found = preview(reader, rows, batches, method, ridge, told)
    tell(as_json, found, _text(found, name, limit))
    if found.bad:
        where = f"line{'' if len(found.bad) == 1 else 's'} {listed([str(row.line) for row in found.bad])}"
        raise RequestError(
            f"{counted(len(found.bad), 'row')} of {name} cannot be applied: {where}. Mend or remove what is bad."
        )


def foretell_one(
    fact: str,
    target: str,
    model: Path,
    store: Path,
    method: str,
    dtype: options.Dtype | None,
    device: str,
    as_json: bool,
) -> None:
    """Print the preview of another target for an active fact."""
    from lifelong_edit.datasets.jsonl import SourcedRequest
    from lifelong_edit.engine.estimate.preview import preview
    from lifelong_edit.engine.estimate.sources import Survey
    from lifelong_edit.facts import EditRequest

    with opening.reader(store, model, dtype, device) as reader:
        old = fact_named(reader.facts(), fact)
        if old.status != "active":
            raise RequestError(f"fact {old.id!r} is {old.status} since entry {old.since}. Restore it first.")
        request = EditRequest.from_dict({**old.request, "id": None, "target_new": target})
        row = SourcedRequest(request, "replace", 1)
        found = preview(reader, Survey((row,), ()), [[row]], method)
    tell(as_json, found, _text(found, "replace", TOP))


def _text(found: Preview, name: str, limit: int | None) -> str:
    known = sum(len(commit.skipped) for commit in found.commits)
    commits = sum(bool(commit.write) for commit in found.commits)
    lines = [
        f"{name}: {counted(found.rows, 'row')}, {len(found.bad)} bad",
        f"{counted(len(found.facts), 'fact')} would be written, by {counted(commits, 'commit')}; "
        f"{known} known already, {len(found.contradictions)} superseded. Nothing is written.",
    ]
    for weight, (now, after) in found.capacity.items():
        lines.append(f"{counted(found.columns, 'value')} to optimise; capacity of {weight} {now:.1%} -> {after:.1%}")
    if found.cost:
        lines.append(_cost_text(found.cost))
    lines += _part("bad rows", [f"{name}:{row.line}: {printable(row.reason)}" for row in found.bad], None)
    for title, rows in _findings(found).items():
        lines += _part(title, rows, limit)
    said = {fact.id for fact in found.said}
    facts = [[f.line, f.id, repr(f.token), "yes" if f.id in said else "", f"{f.question!r} -> {f.target!r}"]
            for f in found.facts[:limit]]  # fmt: skip
    more = [f"and {len(found.facts) - len(facts)} more; --all lists them"] if len(facts) < len(found.facts) else []
    headers = ["line", "fact", "edited at", "said already", "asks"]
    return "\n".join([*lines, "", table(facts, headers), *more] if facts else lines)


def _findings(found: Preview) -> dict[str, list[str]]:
    """What a person should look at, by title."""
    return {
        "duplicates in the file": [f"line {r.line} shares its {r.shares} with line {r.first}" for r in found.repeats],
        "known already": [id for commit in found.commits for id in commit.skipped],
        "would be superseded": [
            f"line {c.line}: {printable(c.target)!r} instead of {printable(c.was)!r} of fact {printable(c.superseded)}"
            + (", which is the same" if c.target.strip() == c.was.strip() else "")
            for c in found.contradictions
        ],
        "facts that share one value": [listed(ids) for ids in found.shared],
        "nearly parallel keys": [
            f"{printable(pair.earlier)} and {printable(pair.later)} (whitened cosine {pair.cosine:.4f}): the ridge "
            f"lets {pair.apart:.1%} of their difference through"
            for pair in found.near
        ],
        "targets the model says already": [f"line {f.line}: {printable(f.question)!r}" for f in found.said],
    }


def _part(title: str, rows: list[str], limit: int | None) -> list[str]:
    shown = rows if limit is None else rows[:limit]
    more = [f"  and {len(rows) - len(shown)} more; --all lists them"] if len(shown) < len(rows) else []
    return [f"{title}: {len(rows)}", *(f"  {row}" for row in shown), *more] if rows else []


def _cost_text(cost: Cost) -> str:
    return (
        f"about {_duration(cost.seconds)} to optimise, by {counted(cost.timed, 'value')} optimised just now; "
        f"{_size(cost.disk)} on disk, {_size(cost.memory)} of memory without activations"
    )


def _duration(seconds: float) -> str:
    """Seconds, or minutes, or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: float) -> str:
    """Bytes in the unit that leaves three digits."""
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {UNITS[power]}"
