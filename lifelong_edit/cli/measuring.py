"""What became of the facts, and holding them better: `measure`, `eval`, `relax`, `repair`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.output import counted, table, tell
from lifelong_edit.cli.telling import EFFICACY, commit_document, entry_document, summary
from lifelong_edit.errors import RequestError

if TYPE_CHECKING:
    from lifelong_edit.engine import Commit, Reader
    from lifelong_edit.engine.estimate.evaluate import Scored
    from lifelong_edit.engine.measure.scores import Scope

Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="What is asked, as rewrite/argmax; repeat it for several.")
]
Newest = Annotated[bool, typer.Option("--newest/--no-newest", help="Ask about the facts of the newest edit.")]
Oldest = Annotated[int, typer.Option("--oldest", min=0, help="How many of the oldest facts are asked about.")]
Sample = Annotated[int, typer.Option("--sample", min=0, help="How many facts are drawn at random.")]
Flagged = Annotated[int, typer.Option("--flagged", min=0, help="How many facts at risk by prediction are asked about.")]
DryRefit = Annotated[bool, typer.Option("--dry-run", help="Work it out and tell its effect; write nothing.")]
OLDEST, SAMPLE, FLAGGED, HALVINGS = 50, 100, 50, 5


def measure(
    model: options.Model,
    store: options.StorePath = options.STORE,
    metric: Metrics = None,
    newest: Newest = True,
    oldest: Oldest = OLDEST,
    sample: Sample = SAMPLE,
    flagged: Flagged = FLAGGED,
    drift: Annotated[bool, typer.Option("--drift", help="Also how far the model moved from its base.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure as eval does; write nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Score some of the active facts on the model and enter it into the ledger: what retention is read from.

    Example: lifelong-edit measure --model checkpoints/tiny-world --oldest 30 --drift
    """
    scope, metrics = _scope(newest, oldest, sample, flagged), metric or [EFFICACY]
    if dry_run:
        with opening.reader(store, model, dtype, device) as reader:
            return _tell_scores(reader, metrics, scope, {}, as_json)
    with opening.editor(store, model, dtype, device) as editor:
        entry = editor.measure(metrics, scope, drift, actor, reason)
    rows = [[row["cohort"], row["metric"], row["facts"], _number(row["value"])] for row in entry.body["retention"]]
    moved = [[r["metric"], _number(r["base"]), _number(r["value"])] for r in entry.body.get("drift", ())]
    lines = [f"entry {entry.seq}: {summary(entry)}", table(rows, ["edit", "metric", "facts", "mean"])]
    lines += ["", table(moved, ["drift", "base", "now"])] if moved else []
    document = {**entry_document(entry, {}), **{name: entry.body.get(name) for name in ("retention", "drift")}}
    tell(as_json, document, "\n".join(lines))


def evaluate(
    model: options.Model,
    store: options.StorePath = options.STORE,
    metric: Metrics = None,
    newest: Newest = True,
    oldest: Oldest = OLDEST,
    sample: Sample = SAMPLE,
    flagged: Flagged = FLAGGED,
    tasks: Annotated[Path | None, typer.Option(help="A folder of lm-evaluation-harness task files to run too.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task of the folder; repeat it for several.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many questions of each task.")] = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Score active facts on the base and on the model now, and with --tasks downstream tasks; nothing is written.

    Example: lifelong-edit eval --model checkpoints/tiny-world --metric rewrite/argmax --metric paraphrase/argmax
    """
    scope = _scope(newest, oldest, sample, flagged)
    if task and tasks is None:
        raise RequestError("A task is one of a folder's. Give the folder: --tasks FOLDER.")
    with opening.reader(store, model, dtype, device) as reader:
        beside = {} if tasks is None else _harness(reader, tasks, task or [], limit)
        _tell_scores(reader, metric or [EFFICACY], scope, beside, as_json)


def calibrate(
    source: options.Source,
    model: options.Model,
    store: options.StorePath = options.STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure the noise; write nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Try edits that are known to be harmless, one by one, and keep the limits of health off what they do to the signs.

    None of them is committed. The noise is entered into the ledger; no limit is closer than three times that.

    Example: lifelong-edit calibrate harmless.jsonl --model checkpoints/tiny-world
    """
    from lifelong_edit.datasets.jsonl import load_requests
    from lifelong_edit.engine.estimate.evaluate import preview_calibrate

    requests = load_requests(source)
    if dry_run:
        with opening.reader(store, model, dtype, device) as reader:
            noise = preview_calibrate(reader, requests)
    else:
        with opening.editor(store, model, dtype, device) as editor:
            noise = editor.calibrate(requests, actor, reason).body["noise"]
    rows = [[name, _number(value)] for name, value in noise.items()]
    tell(as_json, {"dry_run": dry_run, "noise": noise}, table(rows, ["sign", "noise"]))


def relax(
    model: options.Model,
    store: options.StorePath = options.STORE,
    halvings: Annotated[int, typer.Option(min=1, help="How often a ridge may be halved.")] = HALVINGS,
    dry_run: DryRefit = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Bring facts back that the model says no longer, by lower ridges for them alone; joint memory only.

    `revert --commit` of the entry undoes it.

    Example: lifelong-edit relax --model checkpoints/tiny-world --dry-run
    """
    from lifelong_edit.engine.estimate.evaluate import preview_relax

    if dry_run:
        with opening.reader(store, model, dtype, device) as reader:
            return _tell_refit(preview_relax(reader, halvings), "relax", as_json)
    with opening.editor(store, model, dtype, device) as editor:
        _tell_refit(editor.relax(halvings, None, actor, reason), "relax", as_json)


def repair(
    model: options.Model,
    store: options.StorePath = options.STORE,
    dry_run: DryRefit = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Solve all batches of a store in batch memory together; committed only where facts and base are better off.

    `revert --commit` of the entry undoes it.

    Example: lifelong-edit repair --model checkpoints/tiny-world --dry-run
    """
    from lifelong_edit.engine.estimate.evaluate import preview_repair

    if dry_run:
        with opening.reader(store, model, dtype, device) as reader:
            return _tell_refit(preview_repair(reader), "repair", as_json)
    with opening.editor(store, model, dtype, device) as editor:
        _tell_refit(editor.repair(actor, reason), "repair", as_json)


def _scope(newest: bool, oldest: int, sample: int, flagged: int) -> Scope:
    from lifelong_edit.engine.measure.scores import Scope

    return Scope(newest, oldest, sample, flagged)


def _harness(reader: Reader, folder: Path, tasks: list[str], limit: int | None) -> dict[str, dict[str, float | None]]:
    """To every figure of the tasks its value on the base and now."""
    from lifelong_edit.tracking.harness import measure_harness

    base = measure_harness(reader.at(0).editable, folder, tasks, limit=limit)
    now = measure_harness(reader.editable, folder, tasks, limit=limit)
    return {name: {"base": base[name].value, "now": figure.value} for name, figure in now.items()}


def _tell_scores(
    reader: Reader, metrics: list[str], scope: Scope, tasks: dict[str, dict[str, float | None]], as_json: bool
) -> None:
    from lifelong_edit.engine.estimate.evaluate import evaluate as scored

    found: list[Scored] = scored(reader, metrics, scope)
    rows = [[one.metric, one.group, one.facts, _number(one.base), _number(one.now)] for one in found]
    lines = [table(rows, ["metric", "facts", "count", "base", "now"])]
    asked = [[name, _number(pair["base"]), _number(pair["now"])] for name, pair in tasks.items()]
    lines += ["", table(asked, ["task", "base", "now"])] if asked else []
    tell(as_json, {"scores": found, "tasks": tasks}, "\n".join(lines))


def _tell_refit(done: Commit, kind: str, as_json: bool) -> None:
    entry = done.entry
    head = f"entry {entry.seq}: {summary(entry)}" if entry else f"{kind}: nothing is written"
    facts = [f"{counted(len(done.facts), 'fact')} with a lower ridge"] if done.facts else []
    effect = [f"{name} {was:.4f} -> {now:.4f}" for name, (was, now) in (done.effect or {}).items()]
    document: dict[str, Any] = commit_document(done)
    tell(as_json, document, "\n".join([head, *facts, *effect]))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
