"""Streams: micro-batches from a source, each request committed exactly once however often the stream is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lifelong_edit.datasets.jsonl import micro_batches, open_source, read_requests, source_name
from lifelong_edit.engine.change.commit import Commit
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import HealthStop, RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import EDITS

Apply = Callable[[list[EditRequest]], Commit]
Keep = Callable[[], Iterator[Commit]]


def stream(
    source: str | Path, size: int, apply: Apply, halves: Apply | None = None, keep: Keep | None = None
) -> Iterator[Commit]:
    """Apply the requests of a JSON-lines file, or of standard input ("-"), in micro-batches of at most `size`.

    Where the source is cut depends on the source alone and `apply` skips what is committed, so a stream that is
    started again makes the commits that the interrupted one did not come to, and no other. Yields the answer to every
    batch; its entry is None where all requests were known. A wrong line is a `RequestError` naming it; what came before
    its batch stays committed. `keep` is upkeep that may be due before a batch and at the end.
    """
    with open_source(source) as lines:
        for batch in micro_batches(read_requests(lines, source_name(source)), size):
            try:
                yield from keep() if keep else ()
                yield from _applied([sourced.request for sourced in batch], apply, halves)
            except RequestError as error:
                raise RequestError(f"{batch[0].where} to line {batch[-1].line}: {error}") from error
    yield from keep() if keep else ()


def upkeep(edits: int, session: Session, relax: Callable[[], Commit]) -> Keep:
    """Relaxes after every so many edits since the last time that it helped.

    When that is follows from the ledger alone, so a stream that is started again does it where it was to be done.
    """
    tried = -1

    def keep() -> Iterator[Commit]:
        nonlocal tried
        last = max((entry.seq for entry in session.head.entries if entry.kind == "relax"), default=0)
        since = sum(entry.kind in EDITS for entry in session.head.entries[last:])
        if since and since % edits == 0 and tried != session.head.last.seq:
            tried = session.head.last.seq
            commit = relax()
            if commit.entry is not None:
                yield commit

    return keep


def _applied(requests: list[EditRequest], apply: Apply, halves: Apply | None) -> Iterator[Commit]:
    """The commits of a batch; where it is refused for health those of its halves, each applied by `halves` if given."""
    try:
        yield apply(requests)
    except HealthStop:
        if halves is None or len(requests) == 1:
            raise
        for half in (requests[: len(requests) // 2], requests[len(requests) // 2 :]):
            yield from _applied(half, halves, halves)
