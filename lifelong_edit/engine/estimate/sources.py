"""Reading a source to its end: the requests in it, and what is wrong with the lines that are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO

from lifelong_edit.datasets.jsonl import MAX_LINE, SourcedRequest, read_requests
from lifelong_edit.errors import RequestError


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that cannot be applied, counted from 1, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Survey:
    """Everything in a source. Behind a bad line, requests without an id of their own have a provisional one."""

    requests: tuple[SourcedRequest, ...]
    bad: tuple[BadRow, ...]


def survey(stream: IO[bytes], source: str) -> Survey:
    """The requests of a binary stream and all lines that are none; `read_requests` stops at the first of these."""
    lines, found, bad, done = _Counted(stream), list[SourcedRequest](), list[BadRow](), False
    while not done:
        before = lines.count
        try:
            for sourced in read_requests(lines, source):
                found.append(replace(sourced, line=before + sourced.line))
            done = True
        except RequestError as error:
            where = f"{source}:{lines.count - before}: "
            bad.append(BadRow(lines.count, str(error).removeprefix(where)))
    return Survey(tuple(found), tuple(bad))


class _Counted:
    """The lines of a stream, and how many were read. Of a line that is too long, only so much that this is seen."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        limit = MAX_LINE + len(b"\r\n")
        while line := self._stream.readline(limit):
            rest = line
            while len(rest) == limit and not rest.endswith(b"\n"):
                rest = self._stream.readline(limit)
            self.count += 1
            yield line
