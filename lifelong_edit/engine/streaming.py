"""Streams: micro-batches from a source, each request committed exactly once however often the stream is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lifelong_edit.datasets.jsonl import micro_batches, open_source, read_requests, source_name
from lifelong_edit.engine.commit import Commit
from lifelong_edit.errors import HealthStop, RequestError
from lifelong_edit.facts import EditRequest

Apply = Callable[[list[EditRequest]], Commit]


def stream(source: str | Path, size: int, apply: Apply, halves: Apply | None = None) -> Iterator[Commit]:
    """Apply the requests of a JSON-lines file, or of standard input ("-"), in micro-batches of at most `size`.

    Where the source is cut depends on the source alone and `apply` skips what is committed, so a stream that is
    started again makes the commits that the interrupted one did not come to, and no other. Yields the answer to every
    batch; its entry is None where all requests were known. A wrong line is a `RequestError` naming it; what came before
    its batch stays committed.
    """
    with open_source(source) as lines:
        for batch in micro_batches(read_requests(lines, source_name(source)), size):
            try:
                yield from _applied([sourced.request for sourced in batch], apply, halves)
            except RequestError as error:
                raise RequestError(f"{batch[0].where} to line {batch[-1].line}: {error}") from error


def _applied(requests: list[EditRequest], apply: Apply, halves: Apply | None) -> Iterator[Commit]:
    """The commits of a batch; where it is refused for health those of its halves, each applied by `halves` if given."""
    try:
        yield apply(requests)
    except HealthStop:
        if halves is None or len(requests) == 1:
            raise
        for half in (requests[: len(requests) // 2], requests[len(requests) // 2 :]):
            yield from _applied(half, halves, halves)
