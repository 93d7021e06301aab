"""What a source of requests would do to a store, worked out before anything is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from lifelong_edit.datasets.jsonl import SourcedRequest
from lifelong_edit.defaults import METHOD
from lifelong_edit.editing.second_moments import Progress
from lifelong_edit.engine.change.validate import Intake, take_in
from lifelong_edit.engine.estimate.sources import BadRow, Survey
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kind import Cost, How, Near, Rehearsed
from lifelong_edit.model.tokens import encode
from lifelong_edit.store import FactLife
from lifelong_edit.tracking.scores import score_continuations

FACTS_PER_PASS = 64


@dataclass(frozen=True, slots=True)
class PlannedFact:
    """A fact that would be written, and its line.

    The edit is made at the subject's last token: `token` as text, `position` among the prompt's tokens. `said` tells
    whether the model as it is says the target already.
    """

    id: str
    line: int
    question: str
    target: str
    token: str
    position: int
    said: bool


@dataclass(frozen=True, slots=True)
class Repeat:
    """A row that `shares` its id, or its prompt and subject, with the earlier row on line `first`."""

    line: int
    first: int
    shares: str


@dataclass(frozen=True, slots=True)
class Contradiction:
    """The row on `line` answers what the fact `superseded`, of the ledger or an earlier row, answers with `was`."""

    line: int
    fact: str
    target: str
    superseded: str
    was: str


@dataclass(frozen=True, slots=True)
class PlannedCommit:
    """Ids of the facts a commit would write, of requests known already, and of facts it would supersede."""

    write: tuple[str, ...]
    skipped: tuple[str, ...]
    superseded: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """What would be so, row by row, after commits of the batches that were asked about.

    `shared` has, for every slot with a new fact and another one, the ids of its active facts; they get one value.
    `near` are pairs of different slots with nearly parallel keys. `columns` counts the values that would be optimised.
    `capacity` is, to each edited weight, the share of its directions that the facts take up, now and after.
    """

    rows: int
    bad: tuple[BadRow, ...]
    repeats: tuple[Repeat, ...]
    facts: tuple[PlannedFact, ...]
    commits: tuple[PlannedCommit, ...]
    contradictions: tuple[Contradiction, ...]
    shared: tuple[tuple[str, ...], ...]
    near: tuple[Near, ...]
    columns: int
    capacity: Mapping[str, tuple[float, float]]
    cost: Cost | None

    @property
    def said(self) -> tuple[PlannedFact, ...]:
        """The facts whose target the model says already."""
        return tuple(fact for fact in self.facts if fact.said)


def preview(
    session: Session,
    rows: Survey,
    batches: Sequence[Sequence[SourcedRequest]],
    method: str = METHOD,
    ridge: float | None = None,
    progress: Progress | None = None,
    protecting: bool = False,
) -> Preview:
    """Take in `batches` of the requests in `rows` one after the other, as an editor would; nothing is written.

    Rows that an editor would refuse are in `bad` and left out. Keys and answers are those of the model as it is: with
    live targets or several layers, later commits of a stream meet other ones. `progress` is told facts looked at and
    facts in all. `RequestError` for a method that does not exist or takes no batch of this size.
    """
    session.at_head()
    choose = partial(session.kind.choose, method, ridge, protecting=protecting)
    taken = _Taken(
        Rehearsed(session.head.history, session.head.last.seq, "protect" if protecting else "edit"), list(rows.bad)
    )
    for batch in batches:
        taken.take(session, choose, batch)
    return _described(session, rows, taken, choose(1), progress)


@dataclass
class _Taken:
    """What an editor would have taken in so far: a history nobody wrote, and to each fact its line."""

    rehearsed: Rehearsed
    bad: list[BadRow]
    lines: dict[str, int] = field(default_factory=dict)
    commits: list[PlannedCommit] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)

    def take(self, session: Session, choose: Callable[[int], How], batch: Sequence[SourcedRequest]) -> None:
        """One more commit; `RequestError` for a batch that is too large for the method."""
        known = self.rehearsed.history.facts
        intake, refused = _intake(session, known, batch)
        if intake.requests:
            choose(len(intake.requests))
        self.bad += refused
        where = {sourced.request.statement: sourced.line for sourced in reversed(batch)}  # of equal rows the first
        self.lines |= {id: where[request.statement] for id, request in zip(intake.ids, intake.requests, strict=True)}
        self.commits.append(PlannedCommit(intake.ids, intake.skipped, intake.superseded))
        self.contradictions += _contradictions(known, intake, self.lines)
        self.rehearsed = self.rehearsed.then(intake.body()) if intake.requests else self.rehearsed


def _described(session: Session, rows: Survey, taken: _Taken, how: How, progress: Progress | None) -> Preview:
    rehearsed = taken.rehearsed
    written = [id for commit in taken.commits for id in commit.write]
    requests = [rehearsed.history.facts[id].request for id in written]
    said = [told for part in _parts(requests, progress) for told in _said(session, part)]
    facts = tuple(
        _fact(session, id, taken.lines[id], request, now)
        for id, request, now in zip(written, requests, said, strict=True)
    )
    found = session.kind.forecast(session.head, rehearsed, how)
    return Preview(
        rows=len(rows.requests) + len(rows.bad),
        bad=tuple(sorted(taken.bad, key=lambda row: row.line)),
        repeats=tuple(_repeats(rows.requests)),
        facts=facts,
        commits=tuple(taken.commits),
        contradictions=tuple(taken.contradictions),
        shared=tuple(ids for ids in rehearsed.history.slots().values() if len(ids) > 1 and {*ids} & {*written}),
        near=found.near,
        columns=found.values,
        capacity=found.capacity,
        cost=found.cost,
    )


def _intake(
    session: Session, known: Mapping[str, FactLife], batch: Sequence[SourcedRequest]
) -> tuple[Intake, list[BadRow]]:
    """What an editor would take in of a batch, and the rows for which it would refuse it."""
    editable, forms = session.kind.bench, session.kind.forms
    try:
        return take_in(editable, forms, known, [sourced.request for sourced in batch]), []
    except RequestError:
        good, bad = dict[str | tuple[str, str], SourcedRequest](), list[BadRow]()
    for sourced in batch:
        id, statement = sourced.request.resolved_id(editable.texts.rule), sourced.request.statement
        try:
            for shares, own in (("id", id), ("prompt and subject", statement)):
                if own in good:
                    raise RequestError(
                        f"it shares its {shares} with line {good[own].line} of the same commit. Leave one out, or "
                        "apply them one after the other."
                    )
            take_in(editable, forms, known, [sourced.request])
            good |= {id: sourced, statement: sourced}
        except RequestError as error:
            bad.append(BadRow(sourced.line, str(error)))
    left = list(dict.fromkeys(good.values()))
    return take_in(editable, forms, known, [sourced.request for sourced in left]), bad


def _contradictions(known: Mapping[str, FactLife], intake: Intake, lines: Mapping[str, int]) -> Iterator[Contradiction]:
    new = {request.statement: (id, request) for id, request in zip(intake.ids, intake.requests, strict=True)}
    for old in (known[id] for id in intake.superseded):
        id, request = new[old.statement]
        yield Contradiction(lines[id], id, request.target_new, old.id, old.request.target_new)


def _repeats(requests: Sequence[SourcedRequest]) -> Iterator[Repeat]:
    first: dict[str | tuple[str, str], int] = {}
    for sourced in requests:
        for shares, own in (("id", sourced.request.resolved_id()), ("prompt and subject", sourced.request.statement)):
            earlier = first.setdefault(own, sourced.line)
            if earlier != sourced.line:
                yield Repeat(sourced.line, earlier, shares)
                break


def _parts(requests: Sequence[EditRequest], progress: Progress | None) -> Iterator[Sequence[EditRequest]]:
    for start in range(0, len(requests), FACTS_PER_PASS):
        yield requests[start : start + FACTS_PER_PASS]
        if progress:
            progress(min(start + FACTS_PER_PASS, len(requests)), len(requests))


def _said(session: Session, requests: Sequence[EditRequest]) -> list[bool]:
    pairs = [(request.question, request.answer) for request in requests]
    with session.kind.showing(session.state) as editable:
        return [score.argmax for score in score_continuations(editable.model, editable.texts, pairs)]


def _fact(session: Session, id: str, line: int, request: EditRequest, said: bool) -> PlannedFact:
    encoded = encode(session.kind.bench.texts, request)
    token = str(session.kind.bench.tokenizer.decode([encoded.ids[encoded.subject_last]]))
    return PlannedFact(id, line, request.question, request.target_new, token, encoded.subject_last, said)
