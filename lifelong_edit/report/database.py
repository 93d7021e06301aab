"""Write a store's history as flat tables to browse with Datasette; the ledger itself stays untouched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.escapes import printable
from lifelong_edit.outputs import new_file
from lifelong_edit.report.trackers import numbers_of
from lifelong_edit.store import Entry, History
from lifelong_edit.store.objects import sqlite_errors

NAME = "history"  # of the database, as Datasette calls it by its file
SEARCHED = ("subject", "prompt", "target_new")
Row = dict[str, Any]


def write_browsable(entries: Sequence[Entry], path: Path) -> None:
    """Write the database that `metadata` describes to the new file `path`; raises as `new_file` does.

    Every table exists, also when it is empty, with columns of declared types.
    """
    history = History.of(entries)
    rows: Mapping[str, Iterable[Row]] = {
        "entries": map(_entry, entries),
        "facts": _facts(entries, history),
        "scores": _scores(entries),
        "retention": _retention(entries),
        "figures": _figures(entries),
    }
    with new_file(path) as file, sqlite_errors("writing", path), closing(Database(file, execute_plugins=False)) as db:
        for name, (columns, key, links) in COLUMNS.items():
            db.table(name).create(columns, pk=key, foreign_keys=links).insert_all(_last_of(rows[name], key))
        db.table("facts").enable_fts(SEARCHED)


def _last_of(rows: Iterable[Row], key: str | tuple[str, ...]) -> Iterable[Row]:
    """The rows, of those with one key the last: a ledger that was rewritten by hand may say a thing twice."""
    fields = (key,) if isinstance(key, str) else key
    return {tuple(row[field] for field in fields): row for row in rows}.values()


def metadata(store: str, head: str, name: str = NAME) -> Row:
    """Describe tables and ready-made queries for Datasette; `name` is the database's file without .db."""
    tables = {
        table: {"description": about, "columns": columns, **({"sort_desc": sort} if sort else {})}
        for table, (about, columns, sort) in TABLES.items()
    }
    return {
        "title": f"The edits of {store}",
        "description": f"Made from the ledger up to the entry {head}. Looking at it changes nothing.",
        "databases": {name: {"tables": tables, "queries": QUERIES}},
    }


COLUMNS: Mapping[str, tuple[dict[str, type], str | tuple[str, ...], list[tuple[str, str, str]]]] = {
    "entries": (
        {"seq": int, "kind": str, "time": str, "actor": str, "reason": str, "method": str, "facts": int}
        | {"superseded": int, "digest": str, "record": str},
        "seq",
        [],
    ),
    "facts": (
        {"id": str, "seq": int, "status": str, "since": int, "superseded_by": str, "protected": int, "subject": str}
        | {"prompt": str, "question": str, "target_new": str, "target_true": str, "at_edit": float, "newest": float}
        | {"reason": str},
        "id",
        [("seq", "entries", "seq"), ("since", "entries", "seq"), ("superseded_by", "facts", "id")],
    ),
    "scores": (
        {"entry": int, "metric": str, "fact": str, "value": float},
        ("entry", "metric", "fact"),
        [("entry", "entries", "seq"), ("fact", "facts", "id")],
    ),
    "retention": (
        {"entry": int, "metric": str, "edit": int, "facts": int, "value": float},
        ("entry", "metric", "edit"),
        [("entry", "entries", "seq"), ("edit", "entries", "seq")],
    ),
    "figures": ({"entry": int, "name": str, "value": float}, ("entry", "name"), [("entry", "entries", "seq")]),
}
TABLES: Mapping[str, tuple[str, dict[str, str], str | None]] = {
    "entries": (
        "What was done, by whom, when and why: one row an entry of the hash-chained ledger.",
        {
            "seq": "place in the ledger",
            "digest": "SHA-256 that the next entry carries on",
            "facts": "how many it names",
        },
        "seq",
    ),
    "facts": (
        "Every fact ever written and what became of it.",
        {
            "seq": "the entry that wrote it",
            "since": "the entry that made it what it is",
            "at_edit": "1 when the model said it right after its edit",
            "newest": "the same at the newest time it was asked",
        },
        "seq",
    ),
    "scores": ("Every score of a single fact.", {"value": "1 is said; empty: the fact lacks what it takes"}, "entry"),
    "retention": ("How the facts of an edit fared when they were asked.", {"value": "mean score, 0 to 1"}, "entry"),
    "figures": (
        "Every other number of an entry: telemetry, vital signs, drift.",
        {"name": "slashes part groups"},
        "entry",
    ),
}
QUERIES: dict[str, dict[str, str]] = {
    "forgotten_now": {
        "title": "Active facts that the model said after their edit and did not say when last asked",
        "sql": "select id, seq, question, target_new, newest from facts "
        "where status = 'active' and at_edit = 1 and newest < 0.5 order by seq",
    },
    "life_of_a_fact": {
        "title": "Every score of one fact, in time",
        "sql": "select scores.entry, entries.kind, entries.time, scores.metric, scores.value from scores "
        "join entries on entries.seq = scores.entry where scores.fact = :fact order by scores.entry",
    },
    "taken_back": {
        "title": "Facts that are reverted or superseded: by which entry, who and why",
        "sql": "select facts.id, facts.status, facts.question, facts.target_new, entries.seq, entries.actor, "
        "entries.reason from facts join entries on entries.seq = facts.since where facts.status != 'active' "
        "order by entries.seq desc",
    },
    "who_did_what": {
        "title": "Entries by actor and kind",
        "sql": "select actor, kind, count(*) as entries, sum(facts) as facts, max(time) as newest from entries "
        "group by actor, kind order by entries desc",
    },
    "retention_by_edit": {
        "title": "Every edit's mean score at its edit and at its newest measurement",
        "sql": "select edit, metric, min(entry) as first_asked, max(entry) as last_asked, "
        "avg(value) filter (where entry = edit) as at_edit, "
        "(select value from retention as newest where newest.edit = retention.edit "
        "and newest.metric = retention.metric order by entry desc limit 1) as newest "
        "from retention group by edit, metric order by edit",
    },
    "figure_over_time": {
        "title": "One figure over the entries, by the end of its name: norm, capacity, perplexity, ...",
        "sql": "select entry, name, value from figures where name like '%' || :name order by name, entry",
    },
}


def _entry(entry: Entry) -> Row:
    body = entry.body
    return {
        "seq": entry.seq,
        "kind": entry.kind,
        "time": entry.time,
        "actor": _shown(body.get("actor")),
        "reason": _shown(body.get("reason")),
        "method": body.get("method"),
        "facts": len(body.get("facts", ())),
        "superseded": len(body.get("superseded", ())),
        "digest": entry.digest,
        "record": entry.record,
    }


def _facts(entries: Sequence[Entry], history: History) -> Iterator[Row]:
    asked: dict[str, dict[int, float | None]] = {}
    for row in _scores(entries):
        if row["metric"] == EFFICACY:
            asked.setdefault(row["fact"], {})[row["entry"]] = row["value"]
    for fact in history.facts.values():
        own, request = asked.get(fact.id, {}), fact.request
        yield {
            "id": fact.id,
            "seq": fact.seq,
            "status": fact.status,
            "since": fact.since,
            "superseded_by": fact.by,
            "protected": fact.protected,
            "subject": request.subject,
            "prompt": request.prompt,
            "question": _shown(fact.question),
            "target_new": request.target_new,
            "target_true": request.target_true,
            "at_edit": own.get(fact.seq),
            "newest": own[max(own)] if own else None,
            "reason": _shown(entries[fact.seq].body.get("reason")),
        }


def _shown(text: str | None) -> str | None:
    """A text to read, where the columns that are searched have it as it was written."""
    return None if text is None else printable(text)


def _scores(entries: Sequence[Entry]) -> Iterator[Row]:
    for entry in entries:
        for metric, scores in entry.body.get("scores", {}).items():
            for fact, value in scores.items():
                yield {"entry": entry.seq, "metric": metric, "fact": fact, "value": value}


def _retention(entries: Sequence[Entry]) -> Iterator[Row]:
    for entry in entries:
        for row in entry.body.get("retention", ()):
            yield {"entry": entry.seq, "metric": row["metric"], "edit": row["cohort"], "facts": row["facts"],
                   "value": row["value"]}  # fmt: skip


def _figures(entries: Sequence[Entry]) -> Iterator[Row]:
    for entry in entries:
        for name, value in numbers_of(entry).items():
            yield {"entry": entry.seq, "name": name, "value": value}
