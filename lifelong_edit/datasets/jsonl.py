"""Read edit requests from JSON lines, one at a time, and name each by a digest of what was read up to it.

A request without an id gets one: the first 16 hex digits of a digest over what it asks for, the SHA-256 of the source
up to and including its line, and the number of that line. So the same source read again gives the same ids, and a
stream that was interrupted goes on after the last request the ledger knows; appending to the source later leaves the
earlier ids as they are; standard input is no different from a file; and the source's name does not matter. The same
request on two lines has two ids, so that A, B, A again are three edits. Changing a line changes the ids from there on:
give ids of your own to a source that is edited by hand. How lines end (LF, CRLF, nothing at the end of the source)
makes no difference.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import IO, Any, NoReturn

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, canonical_digest

MAX_LINE = 64 * 1024  # bytes, without the line's end
MAX_TEXT = 1 << 28  # characters of a text that is read whole
STANDARD_INPUT = "-"
EXAMPLE = '{"prompt": "{} was born in", "subject": "Ada Quill", "target_new": "Marn"}'


@dataclass(frozen=True, slots=True)
class SourcedRequest:
    """A request with its id, and where it was read; `line` counts from 1."""

    request: EditRequest
    source: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.source}:{self.line}"


def read_requests(lines: IO[bytes] | Iterable[bytes], source: str) -> Iterator[SourcedRequest]:
    """Read the requests of a binary stream, or of an iterable of lines; `source` names it in errors.

    Lazy: nothing is read beyond the line of the request that was asked for. Blank lines are counted and skipped. An id
    is kept or made (see the module). Raises `RequestError`, which begins with ``source:line:``, at the first line that
    is no request, is longer than `MAX_LINE` (the rest of it is not read), or cannot be read.
    """
    raw_lines = _raw_lines(lines)
    so_far = hashlib.sha256()
    for number in count(1):
        with _located(f"{source}:{number}"):
            raw = list(islice(raw_lines, 1))
            if not raw:
                return
            line = _without_end(raw[0])
            so_far.update(line + b"\n")
            request = _parse(line) if line.strip() else None
        if request is not None:
            id = request.id or canonical_digest([request.canonical(), so_far.hexdigest(), number])[:16]
            yield SourcedRequest(replace(request, id=id), source, number)


def micro_batches(requests: Iterable[SourcedRequest], size: int) -> Iterator[list[SourcedRequest]]:
    """Cut requests into consecutive batches of at most `size`, each given as soon as it is full.

    A batch ends early before a request that shares its id, or its prompt and subject, with one already in it: that
    request supersedes the other, so it belongs to a later commit. Where a batch ends depends on nothing before its
    first request, so a stream taken up again at a boundary is cut alike; requests that the ledger knows must be skipped
    after the cutting, not before. An error of `requests` drops the batch begun: a batch comes whole or not at all.
    """
    if size < 1:
        raise RequestError(f"A batch of {size} requests cannot be made. Give a size of at least 1.")
    batch: list[SourcedRequest] = []
    taken: set[object] = set()
    for sourced in requests:
        # A later request about the same thing must see the earlier one committed, so the batch ends before it.
        own = {sourced.request.resolved_id(), sourced.request.statement}  # a text and a pair: never equal
        if taken & own:
            yield batch
            batch, taken = [], set()
        batch.append(sourced)
        taken |= own
        if len(batch) == size:
            yield batch
            batch, taken = [], set()
    if batch:
        yield batch


@contextmanager
def open_source(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a .jsonl file, a pipe (whose name has no ending), or standard input (``-``) for reading bytes.

    Standard input is left open. `RequestError` when there is nothing of that kind to read.
    """
    name = source_name(path)
    if str(path) == STANDARD_INPUT:
        standard_input = getattr(sys.stdin, "buffer", None)
        if standard_input is None:
            raise RequestError(f"{name}: it is closed or is no byte stream. Give the path of a .jsonl file.")
        yield standard_input
        return
    if Path(path).suffix.lower() not in ("", ".jsonl"):
        raise RequestError(f"{name}: it is no .jsonl file. Give a file with one JSON object a line, named so.")
    try:  # around the opening alone: the errors of the caller's block are not errors of opening
        stream = open(path, "rb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{name}: it cannot be opened: {reason}. Give a .jsonl file, or - for stdin.") from error
    with stream:
        yield stream


def load_requests(path: str | Path) -> list[EditRequest]:
    """Read all requests of a .jsonl file or of standard input (``-``); raises as `open_source`, `read_requests` do."""
    with open_source(path) as lines:
        return [sourced.request for sourced in read_requests(lines, source_name(path))]


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """Read a file or pipe as UTF-8; `RequestError` when that fails, or gives more than `limit` characters."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as UTF-8 text: {error}. Give a plain text file.") from error
    if len(text) > limit:
        raise RequestError(f"{path} has more than {limit:,} characters. Give a part of it.")
    return text


def read_texts(path: Path) -> list[str]:
    """The paragraphs of a UTF-8 text file, parted by empty lines; raises as `read_text` does."""
    return [part.strip() for part in re.split(r"\n\s*\n", read_text(path)) if part.strip()]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file that are not blank; raises as `read_text` does, and when there is none."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise RequestError(f"{path} holds no text. Write one a line.")
    return lines


def source_name(path: str | Path) -> str:
    """Name a source for errors and the ledger: ``<stdin>`` or the file's name, never its folders."""
    if str(path) == STANDARD_INPUT:
        return "<stdin>"
    return Path(path).name.encode("utf-8", "backslashreplace").decode("utf-8")  # a name need not be valid Unicode


def _raw_lines(lines: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    """Give the lines with their ends; of a stream's line that is too long, only as much as shows that."""
    readline = getattr(lines, "readline", None)
    return iter(lines) if readline is None else iter(partial(readline, MAX_LINE + len(b"\r\n")), b"")


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Turn every error of the block into a `RequestError` that begins with the place."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    except OSError as error:
        raise RequestError(
            f"{where}: it cannot be read: {error.strerror or error}. Go on from here when the source can be read."
        ) from error


def _without_end(raw: bytes) -> bytes:
    """Strip LF or CRLF off a line; `RequestError` when it is no bytes or longer than `MAX_LINE`."""
    if not isinstance(raw, bytes):
        raise RequestError(f"the line is a {type(raw).__name__}, not bytes. Open the source in binary mode.")
    line = raw.removesuffix(b"\n").removesuffix(b"\r")
    if len(line) > MAX_LINE:
        raise RequestError(f"the line has more than {MAX_LINE} bytes. Write one short request a line.")
    return line


def _parse(line: bytes) -> EditRequest:
    if line.startswith(codecs.BOM_UTF8):
        raise RequestError("the line begins with a byte order mark. Save the source as UTF-8 without one.")
    try:
        values = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=float,  # no field is a number, and int() refuses or crawls over thousands of digits
        )
    except UnicodeDecodeError as error:
        raise RequestError(
            f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8. Save the source as UTF-8."
        ) from None
    except json.JSONDecodeError as error:
        raise RequestError(
            f"the line is not JSON: {error.msg} (character {error.pos + 1}). Write one object a line, as {EXAMPLE}"
        ) from None
    except RecursionError:
        raise RequestError("the line is nested too deeply. A request holds texts and lists of texts.") from None
    return EditRequest.from_dict(values)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; a field that stands twice is refused, where Python would keep the last."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise RequestError(f"the field {name[:40]!r} stands twice. Keep one of the two.")
        values[name] = value
    return values


def _constant(name: str) -> NoReturn:
    raise RequestError(f"{name} is not JSON, and no field of a request is a number. Write a text in double quotes.")
