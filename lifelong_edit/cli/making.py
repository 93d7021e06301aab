"""Making a store, and writing facts into its model: `init`, `apply`, `stream`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.output import bar, counted, json_line, progress, say, tell
from lifelong_edit.cli.telling import commit_document, commit_line, entry_document, summary
from lifelong_edit.datasets.jsonl import (
    STANDARD_INPUT,
    SourcedRequest,
    micro_batches,
    open_source,
    read_requests,
    source_name,
)
from lifelong_edit.store import History

DryRun = Annotated[bool, typer.Option("--dry-run", help="Check every request against model and ledger; write nothing.")]


def init(
    model: options.Model,
    store: options.StorePath = options.STORE,
    text: Annotated[
        Path | None,
        typer.Option(help="Generic UTF-8 text to take second moments from, paragraphs parted by empty lines."),
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="A layer to edit; repeat it for several.")] = None,
    memory: Annotated[str | None, typer.Option(help="joint (all facts as one system) or batch.")] = None,
    targets: Annotated[str | None, typer.Option(help="base (optimise on the unedited model) or live.")] = None,
    contexts: Annotated[int | None, typer.Option(help="How many prefixes edits are made to hold behind.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything that is drawn at random.")] = None,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Make a store for a model. What is chosen here holds for the store's life; left out, it is the README's default.

    Second moments come from --text, or lie beside the bundled model. An interrupted init goes on where it was.

    Example: lifelong-edit init --model checkpoints/tiny-world --store store
    """
    from lifelong_edit.editing.settings import EditorSettings
    from lifelong_edit.engine import LifelongEditor
    from lifelong_edit.engine.moments import read_texts

    choices = {"layers": layer or None, "memory": memory, "targets": targets, "contexts": contexts, "seed": seed}
    given = {name: value for name, value in choices.items() if value is not None}
    settings = EditorSettings.from_dict({**EditorSettings().to_dict(), **given})
    texts = None if text is None else read_texts(text)
    opening.hush()
    number = opening.torch_dtype(dtype)
    with (
        progress("token") as told,
        LifelongEditor.create(store, model, settings, texts, actor, reason, told, number, device) as made,
    ):
        tell(as_json, entry_document(made.head, {}), f"{store}: {summary(made.head)}\nhead {made.head.digest}")


def apply(
    source: options.Source,
    model: options.Model,
    store: options.StorePath = options.STORE,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Requests a commit; by default all in one.")] = None,
    method: options.Method = options.METHOD,
    ridge: options.Ridge = None,
    dry_run: DryRun = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Write the requests of a file into the model. All lines are read before anything is written.

    Requests that the ledger knows are skipped, so the same command can be repeated. An active fact with the same prompt
    and subject is superseded.

    Example: lifelong-edit apply facts.jsonl --model checkpoints/tiny-world --reason "ticket 12"
    """
    with open_source(source) as lines:
        requests = read_requests(lines, source_name(source))
        batches = [list(requests)] if batch_size is None else list(micro_batches(requests, batch_size))
    if dry_run:
        return _check(batches, model, store, method, dtype, device, as_json)
    commits = []
    with (
        opening.editor(store, model, dtype, device) as editor,
        bar("request", sum(map(len, batches))) as shown,
    ):
        for batch in batches:
            commits.append(editor.apply([s.request for s in batch], method, ridge, actor, reason))
            shown.update(len(batch))
            if not as_json:
                say(commit_line(commits[-1]))
    if as_json:
        tell(True, [commit_document(commit) for commit in commits], "")


def stream(
    source: options.Source,
    model: options.Model,
    store: options.StorePath = options.STORE,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Requests a commit, at most.")] = 10,
    method: options.Method = options.METHOD,
    ridge: options.Ridge = None,
    dry_run: DryRun = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a commit.")] = False,
) -> None:
    """Write requests as they come, a commit for every few. Started again, it goes on after the last one committed.

    Example: lifelong-edit stream facts.jsonl --model checkpoints/tiny-world --batch 10
    """
    if dry_run:
        with open_source(source) as lines:
            batches = list(micro_batches(read_requests(lines, source_name(source)), batch))
        return _check(batches, model, store, method, dtype, device, as_json)
    with (
        opening.editor(store, model, dtype, device) as editor,
        bar("request", _lines(source)) as shown,
    ):
        for commit in editor.stream(source, batch, method, ridge, actor, reason):
            shown.update(len(commit.facts) + len(commit.skipped))
            say(json_line(commit_document(commit)) if as_json else commit_line(commit))


def _check(
    batches: Sequence[Sequence[SourcedRequest]],
    model: Path,
    store: Path,
    method: str,
    dtype: options.Dtype | None,
    device: str,
    as_json: bool,
) -> None:
    """Take the batches in one after the other, as an editor would, and tell what it would do with them."""
    from lifelong_edit.editing.methods import method_named
    from lifelong_edit.engine.intake import take_in

    chosen, found = method_named(method), []
    with opening.reader(store, model, dtype, device) as reader:
        history, seq = History.of(reader.history()), reader.head.seq
        for batch in batches:
            intake = take_in(reader.editable, reader.contexts, history.facts, [s.request for s in batch])
            if intake.requests:
                chosen.check_batch(len(intake.requests))
                seq += 1
                history = history.then(seq, "edit", intake.body())
            found.append({"write": intake.ids, "skipped": intake.skipped, "superseded": intake.superseded})
    totals = {name: sum(len(batch[name]) for batch in found) for name in ("write", "skipped", "superseded")}
    commits = sum(bool(batch["write"]) for batch in found)
    text = (
        f"{counted(totals['write'], 'fact')} would be written, by {counted(commits, 'commit')}; "
        f"{totals['skipped']} known already, {totals['superseded']} superseded. Nothing is written."
    )
    tell(as_json, found, text)


def _lines(source: str) -> int | None:
    """How many lines of a file are not blank; None for what can be read once only."""
    if source == STANDARD_INPUT or not Path(source).is_file():
        return None
    with open_source(source) as lines:
        return sum(1 for line in lines if line.strip())
