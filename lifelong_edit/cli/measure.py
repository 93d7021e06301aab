"""Panel Measure: ask the model about its edits.

`measure`, `eval`, `calibrate`, `compare`, `diff`, `blame`, `why`, `checkout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.text import (
    SHORT,
    entry_document,
    facts_lines,
    listed,
    metric_means,
    number,
    print_result,
    table,
)
from lifelong_edit.defaults import EFFICACY
from lifelong_edit.errors import RequestError
from lifelong_edit.escapes import printable
from lifelong_edit.store.history import entry_named
from lifelong_edit.tracking.budget import Scope

if TYPE_CHECKING:
    from lifelong_edit.engine import Reader
    from lifelong_edit.engine.inspect.blame import Blame, Forgotten
    from lifelong_edit.engine.inspect.views import Diff
    from lifelong_edit.engine.inspect.why import Why
    from lifelong_edit.kinds.stage import Stage
    from lifelong_edit.model.editable import EditableModel
    from lifelong_edit.tracking.honest import FactAnswers, HonestScores, Paired, Shares
    from lifelong_edit.tracking.scores import Figure

Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="What is asked, as rewrite/argmax; repeat it for several.")
]
Newest = Annotated[bool, typer.Option("--newest/--no-newest", help="Ask about the facts of the newest edit.")]
Oldest = Annotated[int, typer.Option("--oldest", min=0, help="How many of the oldest facts are asked about.")]
Sample = Annotated[int, typer.Option("--sample", min=0, help="How many facts are drawn at random.")]
Flagged = Annotated[int, typer.Option("--flagged", min=0, help="How many facts at risk by prediction are asked about.")]
Side = Annotated[str, typer.Argument(help="A model folder, or a store's entry: STORE@REF, or STORE for its newest.")]
SCOPE = Scope()
HEAD = "HEAD"  # the newest entry


def measure(
    model: options.Model,
    store: options.StorePath = options.STORE,
    metric: Metrics = None,
    newest: Newest = SCOPE.newest,
    oldest: Oldest = SCOPE.oldest,
    sample: Sample = SCOPE.sample,
    flagged: Flagged = SCOPE.flagged,
    drift: Annotated[bool, typer.Option("--drift", help="Also how far the model moved from its base.")] = False,
    honest: Annotated[bool, typer.Option("--honest", help="Also free answers, doubts, other subjects.")] = False,
    distract: Annotated[Path | None, typer.Option(help="Text before distracted prompts; else the store's own.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure as eval does; write nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Score some of the active facts on the model and enter the scores into the ledger, where `report` reads retention.

    Example: lifelong-edit measure --model checkpoints/tiny-world --oldest 30 --honest
    """
    from lifelong_edit.datasets.jsonl import read_text

    scope, metrics = Scope(newest, oldest, sample, flagged), metric or [EFFICACY]
    if distract and not honest:
        raise RequestError("A distracting text is asked behind by the honest scores only. Add --honest.")
    text = None if distract is None else read_text(distract)
    if dry_run:
        with options.open_reader(store, model, dtype, device) as reader:
            return _tell_scores(reader, metrics, scope, {}, as_json, reader.honest(scope, text) if honest else None)
    with options.open_editor(store, model, dtype, device) as editor:
        found = editor.honest(scope, text) if honest else None
        shares = {f"honest/{mark}": shares.edited for mark, shares in found.shares.items()} if found else {}
        told = {name: figure for name, figure in shares.items() if figure.value is not None}
        entry = editor.measure(metrics, scope, drift, actor, reason, figures=told)
    rows = [[row["cohort"], row["metric"], row["facts"], _number(row["value"])] for row in entry.body["retention"]]
    moved = [
        [row["metric"], _number(row["base"]), _number(row["value"])]
        for row in entry.body.get("drift", ())
        if row["metric"] not in told
    ]
    means = [[name, facts, _number(mean)] for name, mean, facts in metric_means(entry)]
    lines = [f"entry {entry.seq} {entry.digest[:SHORT]} measure", table(means, ["metric", "facts", "mean"])]
    lines += ["", table(rows, ["edit", "metric", "facts", "mean"])]
    lines += ["", table(moved, ["drift", "base", "now"])] if moved else []
    lines += ["", honest_text(found)] if found else []
    measured = {name: entry.body.get(name) for name in ("retention", "drift")}
    document = {**entry_document(entry, {}), **measured, "honest": found}
    print_result(as_json, document, "\n".join(lines))


def evaluate(
    model: options.Model,
    store: options.StorePath = options.STORE,
    metric: Metrics = None,
    newest: Newest = SCOPE.newest,
    oldest: Oldest = SCOPE.oldest,
    sample: Sample = SCOPE.sample,
    flagged: Flagged = SCOPE.flagged,
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
    scope = Scope(newest, oldest, sample, flagged)
    if task and tasks is None:
        raise RequestError("A task is one of a folder's. Give the folder: --tasks FOLDER.")
    with options.open_reader(store, model, dtype, device) as reader:
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
    """Measure what harmless edits do to the vital signs, and widen the limits of health to three times that noise.

    The edits are tried one by one, and none is committed. The noise is entered into the ledger.

    Example: lifelong-edit calibrate harmless.jsonl --model checkpoints/tiny-world
    """
    from lifelong_edit.datasets.jsonl import load_requests

    requests = load_requests(source)
    if dry_run:
        with options.open_reader(store, model, dtype, device) as reader:
            noise = reader.preview_calibrate(requests)
    else:
        with options.open_editor(store, model, dtype, device) as editor:
            noise = editor.calibrate(requests, actor, reason).body["noise"]
    rows = [[name, _number(value)] for name, value in noise.items()]
    print_result(as_json, {"dry_run": dry_run, "noise": noise}, table(rows, ["sign", "noise"]))


def compare(
    a: Side,
    b: Side,
    source: options.Source,
    model: options.AnyModel = None,
    distract: Annotated[Path | None, typer.Option(help="Text before distracted prompts; without, none is.")] = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Put two models side by side on the facts of a file, by honest scores: A, A with the fact in its context, and B.

    The two can be states of stores (which need --model), the base (STORE@0), or model folders that another tool edited,
    that were exported, or rounded. It tells what changed from A to B, and which facts lost or gained what.

    Example: lifelong-edit compare store@0 exported examples/edits.jsonl --model checkpoints/tiny-world
    """
    from lifelong_edit.datasets.jsonl import load_requests, read_text
    from lifelong_edit.facts import distinct
    from lifelong_edit.model.chat import rendered
    from lifelong_edit.tracking.honest import answered, honest_scores, paired, sheets_of

    requests = {request.resolved_id(): request for request in distinct(load_requests(source))}
    if not requests:
        raise RequestError(f"{source} holds no request, so there is nothing to compare. Give the facts to ask about.")
    text = "" if distract is None else read_text(distract)
    # One after the other: two models need not fit into memory at once.
    with _side(a, model, dtype, device) as editable:
        asked = {id: rendered(editable, request) for id, request in requests.items()}
        sheets = sheets_of(editable, asked, text)
        before = answered(editable, sheets)
        told = answered(editable, sheets, told=True, base=before)
    with _side(b, model, dtype, device) as editable:
        found = honest_scores(sheets, before, told, answered(editable, sheets, base=before))
    changes = paired(found)
    document = {"a": a, "b": b, "scores": found, "changes": changes}
    print_result(as_json, document, _comparison_text(a, b, found, changes))


@contextmanager
def _side(name: str, model: Path | None, dtype: options.Dtype | None, device: str) -> Iterator[EditableModel]:
    """Open what a comparison names: a model folder, or the state of a store after an entry."""
    from lifelong_edit.model.editable import EditableModel
    from lifelong_edit.model.folder import CONFIG

    if (Path(name) / CONFIG).is_file():
        options.hide_loading_bars()
        yield EditableModel.open(name, options.torch_dtype(dtype), device)
        return
    root, _, ref = (name, "", HEAD) if Path(name).exists() else name.rpartition("@")
    if not root:
        raise RequestError(f"{name!r} is neither a model folder nor a store. Write a folder, or STORE@REF.")
    if model is None:
        raise RequestError(f"{name!r} is a state of a store. Give the base model that it stands on: --model FOLDER.")
    with options.open_reader(Path(root), model, dtype, device, at=0) as reader:
        yield reader.at(reader.head.seq if ref == HEAD else ref).editable


def _comparison_text(a: str, b: str, found: HonestScores, changes: dict[str, Paired]) -> str:
    from lifelong_edit.tracking.honest import MARKS, answer_in

    shares = {mark: own for mark, own in found.shares.items() if any(getattr(own, side).count for side in MODELS)}
    rows = [
        [mark, _share(own.base), _share(own.context), _share(own.edited), *_change(changes[mark])]
        for mark, own in shares.items()
    ]
    said = []
    for fact in found.facts:
        lost = [mark for mark, change in changes.items() if fact.id in change.lost]
        gained = [mark for mark, change in changes.items() if fact.id in change.gained]
        new = fact.request.target_new
        answers = [answer_in(one.said, new) for one in (fact.base, fact.edited)]
        said += [[fact.id, new, *answers, ", ".join(lost), ", ".join(gained)]] if lost or gained else []
    lines = [
        *(f"{side}  {printable(name)}" for side, name in (("A", a), ("B", b))),
        table(rows, ["", "A", "A, fact in context", "B", "B - A", "lost", "gained"]),
        *(f"  {mark}: {MARKS[mark]}" for mark in shares),
        "",
        table(said, ["fact", "new object", "A says", "B says", "lost", "gained"]) if said else "no fact changed",
    ]
    return "\n".join(lines)


def _change(change: Paired) -> list[object]:
    figure = change.difference
    if figure.value is None or figure.interval is None:
        return ["", "", ""]
    low, high = figure.interval
    return [f"{number(figure.value, '+.3f')} [{low:+.2f}, {high:+.2f}]", len(change.lost), len(change.gained)]


def _harness(reader: Reader, folder: Path, tasks: list[str], limit: int | None) -> dict[str, dict[str, float | None]]:
    """Run the tasks on the base and on the model now: figure -> {base, now}."""
    from lifelong_edit.tracking.harness import measure_harness

    base = measure_harness(reader.at(0).editable, folder, tasks, limit=limit)
    now = measure_harness(reader.editable, folder, tasks, limit=limit)
    return {name: {"base": base[name].value, "now": figure.value} for name, figure in now.items()}


def _tell_scores(
    reader: Reader,
    metrics: list[str],
    scope: Scope,
    tasks: dict[str, dict[str, float | None]],
    as_json: bool,
    honest: HonestScores | None = None,
) -> None:
    found = reader.evaluate(metrics, scope)
    rows = [[one.metric, one.group, one.facts, _number(one.base), _number(one.now)] for one in found]
    lines = [table(rows, ["metric", "facts", "count", "base", "now"])]
    asked = [[name, _number(pair["base"]), _number(pair["now"])] for name, pair in tasks.items()]
    lines += ["", table(asked, ["task", "base", "now"])] if asked else []
    lines += ["", honest_text(honest)] if honest else []
    print_result(as_json, {"scores": found, "tasks": tasks, "honest": honest}, "\n".join(lines))


def honest_text(found: HonestScores) -> str:
    """Write out honest scores: the shares of every mark with their intervals, then every fact with its answers."""
    from lifelong_edit.tracking.honest import answer_in

    said = [
        [fact.id, new, *(answer_in(getattr(fact, m).said, new) for m in MODELS), _failed(fact)]
        for fact in found.facts
        for new in [fact.request.target_new]
    ]
    headers = ["fact", "new object", *MODELS.values(), "fails, edited"]
    return "\n".join([shares_table(found.shares), "", table(said, headers)])


MODELS = {"base": "base", "context": "fact in context", "edited": "edited"}


def shares_table(shares: Mapping[str, Shares]) -> str:
    """Write out the shares of marks with their intervals, and what each of them means; none that no fact has."""
    from lifelong_edit.tracking.honest import MARKS

    told = {mark: [_share(getattr(own, model)) for model in MODELS] for mark, own in shares.items()}
    rows = [[mark, *cells] for mark, cells in told.items() if any(cells)]
    return "\n".join([table(rows, ["", *MODELS.values()]), *(f"  {mark}: {MARKS[mark]}" for mark, *_ in rows)])


def _share(figure: Figure) -> str:
    if figure.value is None or figure.interval is None:
        return ""
    low, high = figure.interval
    return f"{figure.value:.3f} [{low:.2f}, {high:.2f}] of {figure.count}"


def _failed(fact: FactAnswers) -> str:
    return ", ".join(mark for mark, flags in fact.edited.marks.items() if not all(flags))


def _number(value: float | None) -> str:
    return "" if value is None else number(value, ".4f")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The one entry: seq, tag or digest.")],
    model: options.Model,
    b: Annotated[str | None, typer.Argument(metavar="[B]", help="The other entry; by default the newest.")] = None,
    store: options.StorePath = options.STORE,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A prompt to ask both; by default those of the facts that differ.")
    ] = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Compare two entries: their active facts, their weights, and what the model says.

    Example: lifelong-edit diff 3 good --model checkpoints/tiny-world
    """
    with options.open_reader(store, model, dtype, device, at=0) as reader:
        entries = reader.history()
        other = reader.head if b is None else entry_named(entries, b)
        found = reader.diff(entry_named(entries, a).seq, other.seq, prompt or None)
    print_result(as_json, found, _diff_text(found))


def blame(
    prompt: Annotated[str, typer.Argument(help="The text whose continuation you want explained.")],
    model: options.Model,
    store: options.StorePath = options.STORE,
    fact: Annotated[bool, typer.Option("--fact", help="It is a fact's id: who made the model forget it?")] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many slots are tried, or edits told.")] = 5,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Explain an answer: the facts whose keys are behind it, with their shares, and the answer without each of them.

    With --fact, explain why the model no longer says a fact: the later edits behind it, confirmed by leaving one out.

    Example: lifelong-edit blame "Ada Quill was born in" --model checkpoints/tiny-world
    """
    with options.open_reader(store, model, dtype, device) as reader:
        if fact:
            gone = reader.forgotten(prompt)
            return print_result(as_json, gone, _forgotten_text(gone, count))
        found = reader.blame(prompt, count)
    print_result(as_json, found, _blame_text(found))


def why(
    fact: Annotated[str, typer.Argument(metavar="FACT", help="A fact's id, or how it begins.")],
    model: options.Model,
    store: options.StorePath = options.STORE,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Tell where an edit is lost: in its target, its ridge or key, beside others, since then, or in other words.

    Every stage has the share of prompts said, the target's probability, its margin in nats; the lost one has advice.
    Behind a sentence no fact is asked for more than the base keeps there of its own answer: "0.25 of 0.50".

    Example: lifelong-edit why db853e71 --model checkpoints/tiny-world
    """
    with options.open_reader(store, model, dtype, device) as reader:
        found = reader.why(fact)
    lost = found.lost
    document = {"fact": found.fact, "target": found.target, "lost": lost and lost.name, "stages": found.stages}
    print_result(as_json, document, _why_text(found))


def checkout(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The entry whose state is asked: seq, tag or digest.")],
    model: options.Model,
    prompt: Annotated[list[str], typer.Option(help="A prompt to ask; repeat it for several.")],
    store: options.StorePath = options.STORE,
    against: Annotated[str | None, typer.Option(help="Another entry to ask too; HEAD is the newest.")] = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Ask the model as it was after an entry. The state is read-only, and nothing is left checked out.

    Example: lifelong-edit checkout good --prompt "Ada Quill was born in" --against HEAD --model checkpoints/tiny-world
    """
    with options.open_reader(store, model, dtype, device, at=0) as reader:
        entries = reader.history()
        refs = [ref] if against is None else [ref, against]
        seqs = [reader.head.seq if name == HEAD else entry_named(entries, name).seq for name in refs]
        states = [reader.at(seq) for seq in seqs]
        answers = {text: [state.answer(text) for state in states] for text in prompt}
    rows = [[text, *map(repr, said)] for text, said in answers.items()]
    print_result(
        as_json, {"seqs": seqs, "answers": answers}, table(rows, ["prompt", *(f"entry {seq}" for seq in seqs)])
    )


def _diff_text(diff: Diff) -> str:
    lines = [f"entry {diff.a} -> entry {diff.b}"]
    lines += [*facts_lines(diff.gained, "more active"), *facts_lines(diff.lost, "no longer active")]
    lines += [f"{name}: moved by {size:.2e} of the base weight" for name, size in diff.weights.items()]
    answers = [[prompt, repr(one), repr(other)] for prompt, (one, other) in diff.answers.items()]
    same = "no prompt that was asked is answered otherwise"
    return "\n".join([*lines, table(answers, ["prompt", f"entry {diff.a}", f"entry {diff.b}"]) if answers else same])


def _forgotten_text(gone: Forgotten, count: int) -> str:
    lines = [
        f"fact     {printable(gone.fact)}",
        f"target   {printable(repr(gone.target))}",
        f"base     {printable(repr(gone.base))}",
        f"now      {printable(repr(gone.now))}",
        f"missing  {gone.missing:.2f} of the change that was wanted, "
        f"{number(gone.own.share, '.2f')} of that was never written",
    ]
    if gone.without is not None:
        lines.append(f"without entry {gone.suspects[0].seq}  {printable(repr(gone.without))}")
    rows = [[one.seq, number(one.share, ".2f"), listed(one.facts, 5)] for one in gone.suspects[:count]]
    return "\n".join([*lines, table(rows, ["entry", "share", "its facts"])])


def _why_text(found: Why) -> str:
    rows = [
        [stage.name, _said(stage), number(stage.probability, ".3f"), number(stage.margin, "+.2f")]
        for stage in found.stages
    ]
    lost = found.lost
    told = "lost nowhere" if lost is None else f"lost at {lost.name}: {lost.advice}"
    lines = [f"fact    {printable(found.fact)}", f"target  {printable(repr(found.target))}"]
    return "\n".join([*lines, table(rows, ["stage", "said", "p", "margin"]), printable(told)])


def _said(stage: Stage) -> str:
    """The share of prompts said, and the share that the base keeps there of its own answers, where that is not all."""
    of = "" if stage.possible == 1.0 else f" of {number(stage.possible, '.2f')}"
    return number(stage.said, ".2f") + of


def _blame_text(blame: Blame) -> str:
    lines = [
        f"prompt  {printable(repr(blame.prompt))}",
        f"says    {printable(repr(blame.said))}",
        f"base    {printable(repr(blame.base))}",
        f"edits move the weight's outputs here by {blame.moved:.2e}",
    ]
    rows = [[number(slot.share, ".3f"), repr(slot.without), listed(slot.facts)] for slot in blame.slots]
    return "\n".join([*lines, table(rows, ["share", "without", "facts"])])
