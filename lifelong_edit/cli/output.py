"""What commands print: text for people, JSON for programs, bars on standard error when a person is looking."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from os import PathLike
from typing import Any

import typer
from tabulate import tabulate
from tqdm import tqdm

SHORT = 12  # hex digits of a digest, where it is only pointed at


def tell(as_json: bool, document: Any, text: str) -> None:
    """The command's answer: `document` as one JSON document, or `text`."""
    typer.echo(json.dumps(jsonable(document), ensure_ascii=False, indent=2) if as_json else text)


def say(text: str) -> None:
    """A line of an answer that is still being worked out, above the bar when there is one."""
    with tqdm.external_write_mode(file=sys.stdout):
        typer.echo(text)


def json_line(document: Any) -> str:
    """One line of JSON."""
    return json.dumps(jsonable(document), ensure_ascii=False)


def jsonable(value: Any) -> Any:
    """Dataclasses as objects, paths as texts, and null for a number that JSON does not have."""
    if is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, PathLike):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(value: object) -> str:
    """The text on one line, with escapes for what would steer a terminal; nothing for None."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Rows of anything under headers, numbers as they are written."""
    cells = [[printable(cell) for cell in row] for row in rows]
    text: str = tabulate(cells, headers, disable_numparse=True)
    return text


def listed(names: Sequence[str], limit: int = 10) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def counted(number: int, noun: str) -> str:
    """ "1 fact", "2 facts"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def bar(unit: str, total: int | None = None) -> Iterator[Any]:
    """A bar on standard error with the time left; none when nobody is looking."""
    with tqdm(total=total, unit=unit, disable=None) as shown:
        yield shown


@contextmanager
def progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told what is done and what is wanted, as the engine tells it."""
    with bar(unit) as shown:

        def told(done: int, wanted: int) -> None:
            shown.total = wanted
            shown.update(done - shown.n)

        yield told
