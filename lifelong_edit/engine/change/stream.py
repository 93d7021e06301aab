"""Streams: micro-batches from a source, each request committed exactly once however often the stream is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lifelong_edit.datasets.jsonl import micro_batches, open_source, read_requests, source_name
from lifelong_edit.engine.change.budget import waiting
from lifelong_edit.engine.change.commit import Commit
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import HealthStop, RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kind import Head
from lifelong_edit.store import EDITS

Apply = Callable[[Sequence[EditRequest], Sequence[str]], Commit]
"""Applies requests; the ids are those of a batch that was refused before and of which the requests are a part."""
Keep = Callable[[bool], Iterator[Commit]]
"""Gives the commits of upkeep that is due between two batches, or (True) at the end of the source."""


def stream(
    source: str | Path,
    size: int,
    session: Session,
    apply: Apply,
    halve: bool = False,
    keep: Keep | None = None,
    stop: bool = False,
) -> Iterator[Commit]:
    """Apply the requests of a JSON-lines file, or of standard input ("-"), in micro-batches of at most `size`.

    Where the source is cut depends on the source alone and `apply` skips what is committed, so a stream that is
    started again makes the commits that the interrupted one did not come to, and no other. Yields the answer to every
    batch; its entry is None where all requests were known. A wrong line is a `RequestError` naming it; what came before
    its batch stays committed. With `halve` a batch that is refused for health is tried in halves. `keep` is upkeep that
    may be due before a batch and at the end. With `stop` it ends with `NotSaid` behind a commit whose facts do not
    hold.
    """
    with open_source(source) as lines:
        for batch in micro_batches(read_requests(lines, source_name(source)), size):
            requests = [sourced.request for sourced in batch]
            try:
                # Upkeep stands between batches: not among those that were committed long ago, nor between halves.
                if keep and _new(session, requests) and not _begun(session, requests):
                    yield from keep(False)
                for commit in _applied(requests, session, apply, halve):
                    yield commit
                    if stop:
                        commit.check()
            except RequestError as error:
                raise RequestError(f"{batch[0].where} to line {batch[-1].line}: {error}") from error
    yield from keep(True) if keep else ()


def upkeep(edits: int, session: Session, relax: Callable[[], Commit]) -> Keep:
    """Relaxes where facts may have faded since the last time that it helped.

    When that is follows from the ledger alone, so a stream that is started again does it where it was to be done.
    """
    tried = -1

    def keep(end: bool) -> Iterator[Commit]:
        nonlocal tried
        if tried != session.head.last.seq and _due(session.head, edits, end):
            tried = session.head.last.seq
            commit = relax()
            if commit.entry is not None:
                yield commit

    return keep


def _due(head: Head, every: int, end: bool) -> bool:
    """Whether to relax: after every so many edits, at the first that costs older facts, and at the end.

    All since the last relaxing; that of a further cost waits for the count, in case the first one could not be mended.
    """
    last = max((entry.seq for entry in head.entries if entry.kind == "relax"), default=0)
    since = [entry for entry in head.entries[last:] if entry.kind in EDITS]
    if not since:
        return False
    first_cost = next((entry for entry in since if "cost" in entry.body), None)
    return len(since) % every == 0 or since[-1] is first_cost or end


def _applied(
    requests: list[EditRequest], session: Session, apply: Apply, halve: bool, refused: tuple[str, ...] = ()
) -> Iterator[Commit]:
    """The commits of a batch; where it is refused for health those of its halves, if these are wanted.

    What was refused is in the ledger from the first half on, so a batch that was interrupted between its halves is not
    tried as a whole again.
    """
    if not (halve and _begun(session, requests)):
        try:
            yield apply(requests, refused)
            return
        except HealthStop:
            if not halve or len(requests) == 1:
                raise
    refused = (*refused, *(request.resolved_id() for request in requests))
    for half in (requests[: len(requests) // 2], requests[len(requests) // 2 :]):
        yield from _applied(half, session, apply, halve, refused)


def _new(session: Session, requests: Sequence[EditRequest]) -> set[str]:
    """The ids that are not in the ledger."""
    return {request.resolved_id() for request in requests} - session.head.history.facts.keys()


def _begun(session: Session, requests: Sequence[EditRequest]) -> bool:
    """Whether a part of the batch was committed after the batch was refused, and a part of it waits."""
    new = _new(session, requests)
    return len(new) < len(requests) and bool(new & waiting(session.head))
