"""Panel Prepare: requests before they are applied.

`import` writes a data set as lines of requests, `wordings` drafts other prompts for them, `plan` predicts what they
would do to a store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.text import TOP, bar, counted, listed, number, print_result, progress, table
from lifelong_edit.datasets.dataset import Dataset, Rejected, open_dataset
from lifelong_edit.datasets.drafts import line_of
from lifelong_edit.datasets.templates import read_templates
from lifelong_edit.defaults import DRAWS, METHOD
from lifelong_edit.errors import RequestError
from lifelong_edit.escapes import printable
from lifelong_edit.facts import MAX_WORDINGS
from lifelong_edit.outputs import new_file

if TYPE_CHECKING:
    from lifelong_edit.engine.estimate.preview import Preview
    from lifelong_edit.engine.estimate.wordings import Drafted
    from lifelong_edit.kinds.kind import Cost

OUT, WORDED = Path("edits.jsonl"), Path("worded.jsonl")


File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A .json, .jsonl or .csv file, or one of these with .gz behind.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="Its format, by name; without, it is found in the first rows.")
]
Targets = Annotated[
    str | None, typer.Option("--targets", help="What zsRE's edits write: alt (false) or answers (true).")
]
Wordings = Annotated[
    int, typer.Option("--wordings", min=0, max=MAX_WORDINGS, help="Give every edit up to so many wordings.")
]
TemplateFile = Annotated[
    Path | None,
    typer.Option(
        "--templates",
        help="Where wordings come from, as JSON: {relation: [prompt with {}, ...], ...}; else FILE's own prompts.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The .jsonl file to write; it must not exist.")]
Refused = Annotated[
    Path | None, typer.Option("--rejected", help="Write what was rejected here, with reason and raw row.")
]
Raw = Annotated[
    Path | None,
    typer.Option(
        "--raw", help="Write the row behind every edit here, as it was read, with the edit's line in the other file."
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Read only so many edits.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and check every row; write nothing.")]


def import_(
    file: File,
    format: Format = None,
    targets: Targets = None,
    wordings: Wordings = 0,
    templates: TemplateFile = None,
    out: Out = OUT,
    rejected: Refused = None,
    raw: Raw = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write a data set's edits as lines that plan, apply and stream read; say its format, and why rows were rejected.

    The formats: CounterFact, multi-CounterFact, zsRE, MQuAKE, KnowEdit, WikiBigEdit, UltraEditBench, RippleEdits,
    FastEdit, and rows of prompt (or messages), subject and target_new. docs/formats.md says how each is read.

    --wordings lets edits hold in other words too: it adds prompts of the same relation, none that measures the edit.

    Example: lifelong-edit import zsre_mend_eval.json --targets alt --out zsre.jsonl --rejected rejected.jsonl
    """
    _check_ending(out)
    paths = [path for path in (out, rejected, raw) if path is not None]
    if len(set(paths)) < len(paths):
        raise RequestError("Edits, rejected rows and raw rows cannot share a file. Give each another name.")
    if templates is not None and not wordings:
        raise RequestError(
            "Templates are given, but no wordings are asked for. Say how many an edit gets (--wordings)."
        )
    known = None if templates is None else read_templates(templates)
    with ExitStack() as files:
        dataset = files.enter_context(open_dataset(file, format, targets, wordings, known))
        writing = [
            None if dry_run or path is None else files.enter_context(_new(path)) for path in (out, rejected, raw)
        ]
        _copy(dataset, limit, *writing)
    document = _dataset_document(dataset) if dry_run else _dataset_document(dataset, out, rejected, raw)
    print_result(as_json, document, _dataset_text(dataset, document))


def _check_ending(out: Path) -> None:
    if out.suffix.lower() != ".jsonl":
        raise RequestError(
            f"{out}: the name does not end with .jsonl. Name the file so, that the other commands read it."
        )


def _dataset_document(
    dataset: Dataset, out: Path | None = None, rejected_out: Path | None = None, raw_out: Path | None = None
) -> dict[str, Any]:
    return {
        "source": dataset.source,
        "format": dataset.format.name,
        "targets": dataset.choice,
        "rows": dataset.rows,
        "accepted": dataset.accepted,
        "rejected": dataset.reasons.total(),
        "reasons": dict(dataset.reasons.most_common()),
        "unused_fields": dict(dataset.unused),
        "wordings": {str(count): dataset.worded[count] for count in sorted(dataset.worded, reverse=True)},
        "out": out,
        "rejected_out": rejected_out,
        "raw_out": raw_out,
    }


def _copy(
    dataset: Dataset, limit: int | None, out: IO[bytes] | None, rejected: IO[bytes] | None, raw: IO[bytes] | None
) -> None:
    with bar("edit") as shown:
        for outcome in islice(dataset, limit and min(limit, sys.maxsize)):
            shown.update()
            if isinstance(outcome, Rejected):
                row = {"row": outcome.row, "reason": outcome.reason, "problem": outcome.problem, "raw": outcome.raw}
                told = [(rejected, json.dumps(row).encode())]
            else:
                row = {"line": dataset.accepted, "row": outcome.row, "raw": outcome.raw}
                told = [(out, line_of(outcome.request)), (raw, json.dumps(row).encode())]
            for file, line in told:
                if file is not None:
                    file.write(line + b"\n")


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for writing; it gets its name only when everything is written."""
    with new_file(path) as written, written.open("wb") as file:
        yield file


def _dataset_text(dataset: Dataset, document: dict[str, Any]) -> str:
    choice = f", targets {dataset.choice}" if dataset.choice else ""
    lines = [
        f"{printable(dataset.source)}: {dataset.format.title}{choice}",
        f"{counted(dataset.rows, 'row')}: {counted(dataset.accepted, 'edit')} accepted, "
        f"{document['rejected']} rejected",
    ]
    if dataset.reasons:
        lines += [
            "",
            table([[count, reason] for reason, count in dataset.reasons.most_common()], ["edits", "rejected"]),
        ]
    if dataset.wordings:
        told = [f"{count} for {edits:,}" for count, edits in document["wordings"].items()]
        lines += ["", f"wordings an edit: {', '.join(told)}"]
    if dataset.unused:
        lines += ["", f"fields not used: {listed(list(dataset.unused))}"]
    return "\n".join([*lines, "", f"wrote {printable(document['out'])}" if document["out"] else "nothing was written"])


def wordings(
    source: options.Source,
    instruct: Annotated[Path, typer.Option("--with", help="Folder of an instruct model, with its chat template.")],
    out: Annotated[Path, typer.Option("--out", help="The .jsonl file to write; it must not exist.")] = WORDED,
    count: Annotated[int, typer.Option(min=1, max=MAX_WORDINGS, help="Give every request so many more at most.")] = 3,
    draws: Annotated[int, typer.Option(min=1, help="How many sentences the model writes for a request.")] = DRAWS,
    seed: Annotated[int, typer.Option(help="What its choices are drawn with.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Draft and print; write nothing.")] = False,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Let an instruct model draft wordings of every request, for review, and write the requests with them.

    Read what it prints, and take out of the file what does not ask for the same thing: an edit is written through all
    of its wordings. Every sentence that was refused is printed too, with the reason.

    Example: lifelong-edit wordings edits.jsonl --with models/SmolLM2-135M-Instruct --out worded.jsonl
    """
    from lifelong_edit.datasets.jsonl import load_requests
    from lifelong_edit.engine.estimate.wordings import drafted
    from lifelong_edit.model.editable import EditableModel

    _check_ending(out)
    requests = load_requests(source)
    options.hide_loading_bars()
    editable = EditableModel.open(instruct, options.torch_dtype(dtype), device)
    found = []
    with ExitStack() as files:
        writing = None if dry_run else files.enter_context(_new(out))
        shown = files.enter_context(bar("request", len(requests)))
        for one in drafted(editable, requests, count, draws, seed):
            found.append(one)
            shown.update()
            if writing is not None:
                writing.write(line_of(one.request) + b"\n")
    document = {"out": None if dry_run else out, "requests": found}
    print_result(as_json, document, _drafts_text(found, None if dry_run else out))


def _drafts_text(found: Sequence[Drafted], out: Path | None) -> str:
    sentences, given = sum(len(one.sentences) for one in found), sum(len(one.given) for one in found)
    asked = counted(len(found), "request")
    lines = [f"{counted(sentences, 'sentence')} for {asked}, {counted(given, 'wording')} given"]
    for one in found:
        lines += ["", f"{one.request.prompt!r} of {one.request.subject!r}"]
        for each in one.sentences:
            share = "" if each.share is None else f"  ({number(each.share, '.2f')})"
            lines.append(f"  + {each.wording}{share}" if each.refused is None else f"  - {each.refused}")
    return "\n".join([*lines, "", f"wrote {out}" if out else "nothing was written"])


UNITS = ("bytes", "kB", "MB", "GB", "TB")


def plan(
    source: options.Source,
    model: options.Model,
    store: options.StorePath = options.STORE,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Requests a commit; by default all in one.")
    ] = None,
    method: options.Method = METHOD,
    ridge: options.Ridge = None,
    every: Annotated[bool, typer.Option("--all", help="List everything, not only the first of each kind.")] = False,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Predict what a file of requests would do, and write nothing; exit code 2 when rows of it are bad.

    It lists bad rows with their lines, duplicates, facts that would be superseded or share a value, keys that are
    nearly parallel, targets the model says already, the token each fact is edited at, and the cost: values to optimise,
    capacity, time, bytes.

    Example: lifelong-edit plan facts.jsonl --model checkpoints/tiny-world --batch 10
    """
    preview_source(source, model, store, batch, method, ridge, dtype, device, as_json, None if every else TOP)


def preview_source(
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
    protecting: bool = False,
) -> None:
    """Print the preview of a source; `RequestError` when rows of it are bad."""
    from lifelong_edit.datasets.jsonl import micro_batches, open_source, source_name
    from lifelong_edit.engine.estimate.sources import survey

    name = source_name(source)
    with open_source(source) as lines:
        rows = survey(lines, name)
    batches = [list(rows.requests)] if batch is None else list(micro_batches(rows.requests, batch))
    with options.open_reader(store, model, dtype, device) as reader, progress("fact") as told:
        found = reader.preview(rows, batches, method, ridge, told, protecting)
    print_result(as_json, found, _preview_text(found, name, limit))
    if found.bad:
        where = f"line{'' if len(found.bad) == 1 else 's'} {listed([str(row.line) for row in found.bad])}"
        raise RequestError(
            f"{counted(len(found.bad), 'row')} of {name} cannot be applied: {where}. Mend or remove what is bad."
        )


def preview_replacement(
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
    with options.open_reader(store, model, dtype, device) as reader:
        found = reader.preview_replace(fact, target, method)
    print_result(as_json, found, _preview_text(found, "replace", TOP))


def _preview_text(found: Preview, name: str, limit: int | None) -> str:
    known = sum(len(commit.skipped) for commit in found.commits)
    commits = sum(bool(commit.write) for commit in found.commits)
    lines = [
        f"{name}: {counted(found.rows, 'row')}, {len(found.bad)} bad",
        f"{counted(len(found.facts), 'fact')} would be written, by {counted(commits, 'commit')}; "
        f"{known} known already, {len(found.contradictions)} superseded. Nothing is written.",
    ]
    for weight, (now, after) in found.capacity.items():
        filled = f"capacity of {weight} {number(now, '.1%')} -> {number(after, '.1%')}"
        lines.append(f"{counted(found.columns, 'value')} to optimise; {filled}")
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
    """Collect what deserves a look before the file is applied: title -> lines."""
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
    """A time in seconds, minutes or hours, whichever gives at least 2."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: float) -> str:
    """A size in the unit (1,000 bytes a step) that leaves at most three digits before the point."""
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {UNITS[power]}"
