"""Panel Edit: `apply`, `stream`, `replace`, `protect`, `revert`, `restore` change which facts the model holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.prepare import preview_replacement, preview_source
from lifelong_edit.cli.text import (
    bar,
    commit_document,
    commit_line,
    commit_text,
    json_line,
    print_line,
    print_result,
)
from lifelong_edit.datasets.jsonl import (
    MAX_LINE,
    STANDARD_INPUT,
    load_requests,
    micro_batches,
    open_source,
    read_requests,
    source_name,
)
from lifelong_edit.defaults import METHOD, PROBED
from lifelong_edit.errors import RequestError
from lifelong_edit.tracking.budget import Budget, OnRed
from lifelong_edit.tracking.unsaid import OnFail

if TYPE_CHECKING:
    from lifelong_edit.engine import Commit

DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what it would do, as plan does; write nothing.")]
Every = Annotated[
    str | None, typer.Option("--every", help="Read the vital signs every so many commits, or 'log' for ever rarer.")
]
AtRed = Annotated[
    OnRed | None, typer.Option("--on-red", help="When a sign would be red: stop (exit code 3), warn or halve.")
]

Failing = Annotated[
    OnFail,
    typer.Option("--on-fail", help="Facts not said after their commit: keep, revert at once, or stop (exit code 9)."),
]


def apply(
    source: options.Source,
    model: options.Model,
    store: options.StorePath = options.STORE,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Requests a commit; by default all in one.")] = None,
    method: options.Method = METHOD,
    ridge: options.Ridge = None,
    every: Every = None,
    on_red: AtRed = None,
    on_fail: Failing = OnFail.keep,
    dry_run: DryRun = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Write the requests of a file into the model. All lines are read before anything is written.

    A line has prompt, subject and target_new; messages in place of the prompt are told by the model's chat template. An
    end is written with the target: a text, or true for the model's own.
    Requests that the ledger knows are skipped, so the same command can be repeated. An active fact with the same prompt
    and subject is superseded. --every and --on-red hold it to a health budget. What the model does not say afterwards
    is told; --on-fail says what becomes of it.

    Example: lifelong-edit apply facts.jsonl --model checkpoints/tiny-world --reason "ticket 12"
    """
    if dry_run:
        return preview_source(source, model, store, batch_size, method, ridge, dtype, device, as_json)
    with open_source(source) as lines:
        requests = read_requests(lines, source_name(source))
        batches = [list(requests)] if batch_size is None else list(micro_batches(requests, batch_size))
    held, commits = budget(every, on_red, halving=False), []
    with options.open_editor(store, model, dtype, device) as editor, bar("request", sum(map(len, batches))) as shown:
        for batch in batches:
            own = [sourced.request for sourced in batch]
            commits.append(editor.apply(own, method, ridge, actor, reason, held, _told_first(on_fail)))
            shown.update(len(batch))
            if not as_json:
                print_line(commit_line(commits[-1]))
            if on_fail == OnFail.stop and commits[-1].failed:
                break
    if as_json:
        print_result(True, [commit_document(commit) for commit in commits], "")
    _end(on_fail, commits)


def stream(
    source: options.Source,
    model: options.Model,
    store: options.StorePath = options.STORE,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Requests a commit, at most.")] = 10,
    method: options.Method = METHOD,
    ridge: options.Ridge = None,
    every: Every = None,
    on_red: AtRed = None,
    on_fail: Failing = OnFail.keep,
    dry_run: DryRun = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a commit.")] = False,
) -> None:
    """Write requests as they come, a commit for every few. Started again, it goes on after the last one committed.

    --every and --on-red hold it to a health budget; with halve, a batch that would be red is tried in halves. --on-fail
    says what becomes of facts that the model does not say: reverted ones are not tried again, and a stream that stopped
    goes on behind them.

    Example: lifelong-edit stream facts.jsonl --model checkpoints/tiny-world --batch 10
    """
    if dry_run:
        return preview_source(source, model, store, batch, method, ridge, dtype, device, as_json)
    held = budget(every, on_red)
    with options.open_editor(store, model, dtype, device) as editor, bar("request", _lines(source)) as shown:
        for commit in editor.stream(source, batch, method, ridge, actor, reason, held, on_fail=on_fail):
            shown.update(commit.requests)
            print_line(json_line(commit_document(commit)) if as_json else commit_line(commit))


def replace(
    fact: Annotated[str, typer.Argument(metavar="FACT", help="The fact's id, or how it begins.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="What the model is to say instead.")],
    model: options.Model,
    store: options.StorePath = options.STORE,
    method: options.Method = METHOD,
    on_fail: Failing = OnFail.keep,
    dry_run: DryRun = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Give an active fact another target: a new fact, which supersedes it. Reverting the new one brings the old back.

    Example: lifelong-edit replace db853e71 Oran --model checkpoints/tiny-world --reason "moved"
    """
    if dry_run:
        return preview_replacement(fact, target, model, store, method, dtype, device, as_json)
    with options.open_editor(store, model, dtype, device) as editor:
        done = editor.replace(fact, target, method, actor, reason, _told_first(on_fail))
        print_result(as_json, commit_document(done), commit_text(done, "replace", editor.facts()))
    _end(on_fail, [done])


def protect(
    source: options.Source,
    model: options.Model,
    store: options.StorePath = options.STORE,
    method: options.Method = METHOD,
    ridge: options.Ridge = None,
    on_fail: Failing = OnFail.keep,
    dry_run: DryRun = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Let later edits leave these facts of the base alone; `target_new` of each is what the base answers.

    A protected fact costs as much capacity as an edit, and is reverted and restored like one. Joint memory only.

    Example: lifelong-edit protect known.jsonl --model checkpoints/tiny-world
    """
    if dry_run:
        return preview_source(source, model, store, None, method, ridge, dtype, device, as_json, protecting=True)
    requests = load_requests(source)
    with options.open_editor(store, model, dtype, device) as editor:
        done = editor.protect(requests, method, ridge, actor, reason, _told_first(on_fail))
        text = commit_text(done, "protect", editor.facts()) if done.entry else commit_line(done)
        print_result(as_json, commit_document(done), text)
    _end(on_fail, [done])


def _told_first(on_fail: OnFail) -> OnFail:
    """What the engine is to do with facts that are not said, where the command stops only after it told of them."""
    return OnFail.keep if on_fail == OnFail.stop else on_fail


def _end(on_fail: OnFail, commits: Sequence[Commit]) -> None:
    """End with `NotSaid` where facts of these commits do not hold and that is to stop the command."""
    for commit in commits if on_fail == OnFail.stop else ():
        commit.check()


def budget(every: str | None, on_red: OnRed | None, halving: bool = True) -> Budget | None:
    """Make the health budget of --every and --on-red; None when neither is given."""
    if on_red == OnRed.halve and not halving:
        raise RequestError("Only stream tries a batch in halves. Use stream, or --on-red stop.")
    choices: dict[str, Any] = {} if every is None else {"every": _count(every)}
    choices |= {} if on_red is None else {"on_red": on_red}
    return Budget(**choices) if choices else None


def _count(text: str) -> int | str:
    """The number that a text says, or the text: what may stand for one, the budget knows."""
    try:
        return int(text)
    except ValueError:  # no number, or one of thousands of digits
        return text


def _lines(source: str) -> int | None:
    """Count the lines of a file that are not blank; None for what can be read only once, as standard input."""
    if source == STANDARD_INPUT or not Path(source).is_file():
        return None
    with open_source(source) as lines:
        return sum(1 for line in iter(partial(lines.readline, MAX_LINE), b"") if line.strip())


def revert(
    model: options.Model,
    facts: options.Facts = None,
    store: options.StorePath = options.STORE,
    commit: Annotated[str | None, typer.Option(help="Take out all that this entry wrote: seq, tag or digest.")] = None,
    to: Annotated[str | None, typer.Option(help="Make just the facts active that were so after this entry.")] = None,
    probe: options.Probe = PROBED,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Predict the blast radius; write nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Take facts out, in any order, by a new entry; what they superseded is active again.

    The weights become those of the same stream without the facts. The blast radius says what that does to all others:
    `predicted` from stored keys, `p` the target's probability before and after.

    Example: lifelong-edit revert db853e71 --model checkpoints/tiny-world --reason "was wrong"
    """
    names = facts or []
    if dry_run:
        with options.open_reader(store, model, dtype, device) as reader:
            done = reader.preview_revert(*names, commit=commit, to=to)
            return print_result(as_json, commit_document(done), commit_text(done, "revert", reader.facts()))
    with options.open_editor(store, model, dtype, device) as editor:
        done = editor.revert(*names, commit=commit, to=to, probe=probe, actor=actor, reason=reason)
        print_result(as_json, commit_document(done), commit_text(done, "revert", editor.facts()))


def restore(
    model: options.Model,
    facts: Annotated[list[str], typer.Argument(metavar="FACT", help="Ids of facts, or how they begin.")],
    store: options.StorePath = options.STORE,
    probe: options.Probe = PROBED,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be active; write nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Make reverted or superseded facts active again, as they were; another answer to the prompt is superseded.

    Example: lifelong-edit restore db853e71 --model checkpoints/tiny-world
    """
    if dry_run:
        with options.open_reader(store, model, dtype, device) as reader:
            done = reader.preview_restore(*facts)
            return print_result(as_json, commit_document(done), commit_text(done, "restore", reader.facts()))
    with options.open_editor(store, model, dtype, device) as editor:
        done = editor.restore(*facts, probe=probe, actor=actor, reason=reason)
        print_result(as_json, commit_document(done), commit_text(done, "restore", editor.facts()))
