"""Read foreign data sets as edit requests: detect the format, and give every row as a request or as a rejection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lifelong_edit.datasets.drafts import Draft, request_of
from lifelong_edit.datasets.formats import (
    counterfact,
    counterfact_flat,
    fastedit,
    knowedit,
    mquake,
    plain,
    rippleedits,
    ultraeditbench,
    wikibigedit,
    zsre,
)
from lifelong_edit.datasets.formats.format import Format, paths_of
from lifelong_edit.datasets.jsonl import source_name
from lifelong_edit.datasets.rows import Row, open_rows
from lifelong_edit.datasets.templates import Templates, worded
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest

DETECTED = (
    counterfact.FORMAT,
    counterfact_flat.FORMAT,
    zsre.FORMAT,
    zsre.ULTRAEDIT,
    mquake.FORMAT,
    knowedit.FORMAT,
    knowedit.WIKIBIO,
    wikibigedit.FORMAT,
    ultraeditbench.FORMAT,
    rippleedits.FORMAT,
    fastedit.FORMAT,
    plain.FORMAT,
)
FORMATS = {known.name: known for known in (*DETECTED, counterfact.MULTI)}  # the last is only told apart by its name
FIRST = 20  # rows that a format is found in


@dataclass(frozen=True, slots=True)
class Imported:
    """An accepted edit: its request, the number of its row (line or array item, from 1), the row itself, its relation.

    `relation` is the name that the data set has for what the prompt says of its subject, None where it has none.
    """

    request: EditRequest
    row: int
    raw: Any
    relation: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected edit: the number of its row, the reason in few words, the whole message, and the row itself."""

    row: int
    reason: str
    problem: str
    raw: Any


@dataclass
class Dataset:
    """An open data file. It can be iterated once; the counts are of what the iteration has given so far.

    Every request gets up to `wordings` wordings out of the `templates` of its relation.
    """

    source: str
    format: Format
    choice: str | None
    _rows: Iterator[Row]
    wordings: int = 0
    templates: Templates = field(default_factory=dict)
    rows: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)  # fields that nothing reads, with the rows that have them
    worded: Counter[int] = field(default_factory=Counter)  # numbers of wordings, with the edits that have so many
    _ids: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[Imported | Rejected]:
        for row in self._rows:
            self.rows += 1
            for outcome in self._outcomes(row):
                if isinstance(outcome, Rejected):
                    self.reasons[outcome.reason] += 1
                else:
                    self.accepted += 1
                    self.worded[len(outcome.request.wordings)] += 1
                yield outcome

    def _outcomes(self, row: Row) -> Iterator[Imported | Rejected]:
        if row.problem:
            yield _rejected(row, row.problem)
            return
        self.unused.update(name for name in row.raw if name not in self.format.fields)
        try:
            drafts = list(self.format.drafts(row.raw, self.choice))
        except RequestError as error:
            yield _rejected(row, str(error))
            return
        for draft in drafts:
            yield self._outcome(row, draft)

    def _outcome(self, row: Row, draft: Draft) -> Imported | Rejected:
        try:
            request = request_of(draft)
        except RequestError as error:
            return _rejected(row, str(error))
        if request.id in self._ids:
            return _rejected(row, f"the id stands twice: {request.id!r} is an earlier row's. Give each row its own.")
        if request.id is not None:
            self._ids.add(request.id)
        relation = draft.relation if isinstance(draft.relation, str) else None
        request = worded(request, self.templates.get(relation or "", ()), self.wordings)
        return Imported(request, row.number, row.raw, relation)


@contextmanager
def open_dataset(
    path: str | Path,
    format: str | None = None,
    targets: str | None = None,
    wordings: int = 0,
    templates: Templates | None = None,
) -> Iterator[Dataset]:
    """Open a .json, .jsonl or .csv file, also gzipped, of a foreign format; `None` detects it from the first rows.

    `targets` chooses between a format's targets: ``alt`` or ``answers`` of zsRE, where it must be given. Every request
    gets up to `wordings` wordings from the `templates` of its relation; None takes the prompts that the file itself has
    for the relation, for which it is read twice.

    Raises `RequestError` when the format is unknown or ambiguous, when `targets` is lacking or does not fit, when there
    are no templates, and while reading when the file itself is broken. A row that is wrong by itself becomes a
    `Rejected`.
    """
    if wordings and templates is None:
        templates = templates_in(path, format, targets)
    with open_rows(path) as rows:
        first = list(islice(rows, FIRST))
        known = detect(first, source_name(path)) if format is None else format_named(format)
        yield Dataset(source_name(path), known, _choice(known, targets), chain(first, rows), wordings, templates or {})


def templates_in(path: str | Path, format: str | None = None, targets: str | None = None) -> Templates:
    """Collect the prompts that a data file has for each relation; raises as `open_dataset` does."""
    advice = "Give the prompts of each relation (--templates)."
    if Path(path).exists() and not Path(path).is_file():
        raise RequestError(f"{source_name(path)}: only a file can be read twice, for wordings and for edits. {advice}")
    found: dict[str, dict[str, None]] = {}  # an ordered set each
    with open_dataset(path, format, targets) as dataset:
        for outcome in dataset:
            if isinstance(outcome, Imported) and outcome.relation is not None:
                found.setdefault(outcome.relation, {})[outcome.request.prompt] = None
    if not found:
        raise RequestError(f"{dataset.source}: no row names its relation, so there are no wordings to take. {advice}")
    return {relation: list(prompts) for relation, prompts in found.items()}


def format_named(name: str) -> Format:
    """Look a format up by its name; `RequestError` lists the known ones."""
    if name not in FORMATS:
        raise RequestError(f"There is no format {name!r}. Choose one of {', '.join(sorted(FORMATS))}.")
    return FORMATS[name]


def detect(rows: Iterable[Row], source: str) -> Format:
    """Find the format whose marks (paths of fields) these rows have; of two, the one with more marks."""
    paths = frozenset[str]().union(*(paths_of(row.raw) for row in rows if row.problem is None))
    found = {known: marks for known in DETECTED if (marks := known.marks_in(paths))}
    # Rows of EasyEdit's CounterFact also have the marks of plain rows: the more specific format is meant.
    best = [known for known, marks in found.items() if not any(marks < other for other in found.values())]
    if len(best) == 1:
        return best[0]
    names = ", ".join(known.name for known in best)
    seen = ", ".join(sorted(path for path in paths if "." not in path and "[" not in path)[:30]) or "no objects"
    problem = f"the rows look like {names} at once" if best else "the rows look like no format that is known"
    raise RequestError(
        f"{source}: {problem}. Seen in the first rows: {seen}. "
        f"Say which it is (--format): {', '.join(sorted(FORMATS))}; or rename fields to prompt, subject, target_new."
    )


def _choice(known: Format, targets: str | None) -> str | None:
    if targets is None and known.choices:
        raise RequestError(
            f"{known.title} has two targets, and there is no usual one: alt (false answers, as EasyEdit writes) or "
            "answers (true ones, as MEMIT does). Choose with --targets."
        )
    if targets is not None and targets not in known.choices:
        names = " or ".join(known.choices)
        raise RequestError(
            f"{known.title} has no targets {targets!r}. " + (f"Choose {names}." if names else "Leave --targets out.")
        )
    return targets


def _rejected(row: Row, problem: str) -> Rejected:
    return Rejected(row.number, problem.partition(":")[0], problem, row.raw)
