"""Read the rows of a data file one at a time: JSON lines, a JSON array or CSV, plain or gzipped.

Bytes that are not UTF-8 are kept as lone surrogates, so that the row which holds them is refused and not the file.
NaN, which some writers put where a value is missing, is read as null. In CSV an empty cell is a missing value.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import IO, Any

from lifelong_edit.datasets.jsonl import source_name
from lifelong_edit.errors import RequestError

KINDS = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false"}
ENDINGS = (".json", ".jsonl", ".csv")
CHUNK = 1 << 16  # characters read at a time
LONGEST = 1 << 22  # characters of a row; a longer one is a broken file
BLANKS = " \t\r\n"
DECODER = json.JSONDecoder(parse_constant=lambda _name: None)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a data file; `number` is its line, or its item in an array, from 1.

    `raw` is the object that was read. When it could not be read, `problem` says why and `raw` is the text.
    """

    number: int
    raw: Any
    problem: str | None = None


@contextmanager
def open_rows(path: str | Path) -> Iterator[Iterator[Row]]:
    """Open a .json, .jsonl or .csv file, or one of these with .gz behind, as an iterator of rows.

    JSON is told from its first character: a ``[`` begins an array, all else is one object a line. `RequestError` when
    the file cannot be opened, and while reading when it is cut short or its form is broken, with the place.
    """
    name, endings = source_name(path), [ending.lower() for ending in Path(path).suffixes]
    zipped = endings[-1:] == [".gz"]
    kind = (endings[:-1] if zipped else endings)[-1:]
    if not kind or kind[0] not in ENDINGS:
        raise RequestError(f"{name}: the name ends with none of {', '.join(ENDINGS)}, or these with .gz. Rename it.")
    try:  # around the opening alone: the errors of the caller's block are not errors of opening
        stream: Any = gzip.open(path, "rb") if zipped else open(path, "rb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{name}: it cannot be opened: {reason}. Give a file of edits.") from error
    with stream:
        # The first byte tells an array from lines; it is peeked at, so that a pipe can be read too.
        with _reported(name):
            read = _csv_rows if kind == [".csv"] else _items if _begins_array(stream) else _lines
        text = TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        yield _named(read(text), name)


def _begins_array(stream: Any) -> bool:
    return bytes(stream.peek(64)).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Turn every error of reading into a `RequestError` that begins with the file's name."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{name}: it cannot be read to its end: {error}. Fetch the file again.") from error


def _named(rows: Iterator[Row], name: str) -> Iterator[Row]:
    while True:
        with _reported(name):  # around the reading alone
            row = next(rows, None)
        if row is None:
            return
        yield row


def _lines(text: IO[str]) -> Iterator[Row]:
    """Read JSON lines, one row a line; blank lines are counted and skipped."""
    for number, line in enumerate(_bounded(text), 1):
        if line.strip(BLANKS):
            try:
                yield Row(number, _object(DECODER.decode(line)))
            except (ValueError, RecursionError) as error:
                yield Row(number, line.strip(BLANKS), f"not a JSON object: {error}. Write one object a line.")


def _bounded(text: IO[str]) -> Iterator[str]:
    """Give the lines; `RequestError` at one that is longer than a row can be, of which no more is read."""
    for number, line in enumerate(iter(partial(text.readline, LONGEST), ""), 1):
        if len(line) == LONGEST:
            raise RequestError(f"line {number} has {LONGEST:,} characters or more. The file is broken; write it anew.")
        yield line


def _items(text: IO[str]) -> Iterator[Row]:
    """Read the items of a JSON array; at most one chunk is read beyond the item asked for."""
    buffer = _more(text, "", 1)[1:]  # it begins with [
    for number in count(1):
        buffer = _more(text, buffer, number)
        if number == 1 and buffer[0] == "]":
            return
        value, buffer = _item(text, buffer, number)
        try:
            yield Row(number, _object(value))
        except ValueError as error:
            yield Row(number, value, f"not a JSON object: {error}. An item of the list is one object.")
        buffer = _more(text, buffer, number)
        if buffer[0] == "]":
            return
        if buffer[0] != ",":
            raise RequestError(f"no comma stands behind item {number}. The file is not JSON; write it anew.")
        buffer = buffer[1:]


def _more(text: IO[str], buffer: str, number: int) -> str:
    """Refill the buffer until it begins with a character that is no blank."""
    buffer = buffer.lstrip(BLANKS)
    while not buffer:
        if not (read := text.read(CHUNK)):
            raise RequestError(f"the list ends at item {number} without a ]. The file was cut short; fetch it again.")
        buffer = read.lstrip(BLANKS)
    return buffer


def _item(text: IO[str], buffer: str, number: int) -> tuple[Any, str]:
    """Parse the value that the buffer begins with; give it and the rest of the buffer."""
    while True:
        try:
            value, end = DECODER.raw_decode(buffer)
            if end < len(buffer):  # else a number might go on
                return value, buffer[end:]
            problem = "it has no end"
        except (ValueError, RecursionError) as error:
            problem = str(error)
        read = text.read(CHUNK) if len(buffer) < LONGEST else ""
        if not read:
            raise RequestError(f"item {number} is not JSON: {problem}. Was the file cut short? Write it anew.")
        buffer += read


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it is {kind_of(value)}")
    return value


def kind_of(value: Any) -> str:
    """Name the type of a JSON value in words: ``a list``."""
    return "missing" if value is None else KINDS.get(type(value), type(value).__name__)


def _csv_rows(text: IO[str]) -> Iterator[Row]:
    """Read CSV, one row a record, numbered by the line it begins on; the first record names the columns."""
    reader = csv.reader(_bounded(text), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise RequestError(f"line 1: two columns have one name: {header}. Name each once.")
        begun = reader.line_num + 1
        for cells in reader:
            number, begun = begun, reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                yield Row(number, cells, f"not one cell a column: {len(cells)} for {len(header)}. Quote commas.")
            else:
                yield Row(number, {name: cell or None for name, cell in zip(header, cells, strict=True)})
    except csv.Error as error:
        raise RequestError(f"line {reader.line_num}: it is not CSV: {error}. Write it with a CSV writer.") from None
