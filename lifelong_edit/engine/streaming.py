"""Streams: micro-batches from a source, each request committed exactly once however often the stream is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lifelong_edit.datasets.jsonl import micro_batches, open_source, read_requests, source_name
from lifelong_edit.engine.commit import Commit
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest


def stream(source: str | Path, size: int, apply: Callable[[list[EditRequest]], Commit]) -> Iterator[Commit]:
    """Apply the requests of a JSON-lines file, or of standard input ("-"), in micro-batches of at most `size`.

    Where the source is cut depends on the source alone and `apply` skips what is committed, so a stream that is
    started again makes the commits that the interrupted one did not come to, and no other. Yields the answer to every
    batch; its entry is None where all requests were known. A wrong line is a `RequestError` naming it; what came before
    its batch stays committed.
    """
    with open_source(source) as lines:
        for batch in micro_batches(read_requests(lines, source_name(source)), size):
            try:
                yield apply([sourced.request for sourced in batch])
            except RequestError as error:
                raise RequestError(f"{batch[0].where} to line {batch[-1].line}: {error}") from error
