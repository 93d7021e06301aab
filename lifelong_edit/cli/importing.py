"""Bringing data sets in: `import` writes rows of a known format as lines that `plan`, `apply` and `stream` read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.output import bar, counted, listed, printable, table, tell
from lifelong_edit.datasets.drafts import line_of
from lifelong_edit.datasets.importing import Dataset, Rejected, open_dataset
from lifelong_edit.errors import RequestError, StoreError

OUT = Path("edits.jsonl")


File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A .json, .jsonl or .csv file, or one of these with .gz behind.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="Its format, by name; without, it is found in the first rows.")
]
Targets = Annotated[
    str | None, typer.Option("--targets", help="What zsRE's edits write: alt (false) or answers (true).")
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
    out: Out = OUT,
    rejected: Refused = None,
    raw: Raw = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write a data set's edits as lines that plan, apply and stream read; say its format, and why rows were rejected.

    The formats: CounterFact, multi-CounterFact, zsRE, MQuAKE, KnowEdit, WikiBigEdit, UltraEditBench, RippleEdits,
    FastEdit, and rows of prompt, subject and target_new. docs/formats.md says how each is read.

    Example: lifelong-edit import zsre_mend_eval.json --targets alt --out zsre.jsonl --rejected rejected.jsonl
    """
    if out.suffix.lower() != ".jsonl":
        raise RequestError(
            f"{out}: the name does not end with .jsonl. Name the file so, that the other commands read it."
        )
    paths = [path for path in (out, rejected, raw) if path is not None]
    if len(set(paths)) < len(paths):
        raise RequestError("Edits, rejected rows and raw rows cannot share a file. Give each another name.")
    with ExitStack() as files:
        dataset = files.enter_context(open_dataset(file, format, targets))
        writing = [
            None if dry_run or path is None else files.enter_context(_new(path)) for path in (out, rejected, raw)
        ]
        _copy(dataset, limit, *writing)
    document = _document(dataset) if dry_run else _document(dataset, out, rejected, raw)
    tell(as_json, document, _text(dataset, document))


def _document(
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
        "out": out,
        "rejected_out": rejected_out,
        "raw_out": raw_out,
    }


def _copy(
    dataset: Dataset, limit: int | None, out: IO[bytes] | None, rejected: IO[bytes] | None, raw: IO[bytes] | None
) -> None:
    with bar("edit") as shown:
        for outcome in islice(dataset, limit):
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
    """A file that has its name only once all is written; `RequestError` when the name is taken."""
    if path.exists():
        raise RequestError(f"{path}: it exists and is not written over. Remove it, or give another name.")
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path}: it cannot be written: {error.strerror or error}. Make room or give another."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _text(dataset: Dataset, document: dict[str, Any]) -> str:
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
    if dataset.unused:
        lines += ["", f"fields not used: {listed(list(dataset.unused))}"]
    return "\n".join([*lines, "", f"wrote {printable(document['out'])}" if document["out"] else "nothing was written"])
