"""Verify a store without its model: the hash chain, the tables, every record and every pinned second moment.

Nothing is changed. There is one function for each kind of fault; it returns how many things it examined, and a
sentence about each that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lifelong_edit.errors import RequestError, StoreCorrupt, StoreError
from lifelong_edit.facts import canonical_json
from lifelong_edit.store.history import EDITS, FactLife, lives
from lifelong_edit.store.ledger import GENESIS, Entry, Ledger, added_facts, typed
from lifelong_edit.store.objects import KernelRecord, ObjectStore, Record, read_record, sqlite_errors
from lifelong_edit.store.schema import NOTES, fresh
from lifelong_edit.store.store import Store
from lifelong_edit.store.upkeep import Stray, named_statistics, own_files, strays

ABBREVIATED = 12  # the fewest digits of a kept head: of fewer, another entry's may be the same
Findings = tuple[int, list[str]]
# The columns that SQLite generates from an entry's body.
GENERATED = ("kind", "time", "actor", "reason", "method", "record", "weights")


@dataclass(frozen=True)
class Check:
    """The result of one check: how many things it examined, and a sentence about each that is wrong."""

    name: str
    examined: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """The results of all checks; `head` is the digest of the last sound entry, `strays` are files no entry needs."""

    head: str
    checks: tuple[Check, ...]
    strays: tuple[Stray, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong, a sentence each; empty for a sound store."""
        return tuple(problem for check in self.checks for problem in check.problems)

    def require_sound(self) -> None:
        """Raise `StoreCorrupt` with everything that is wrong, if anything is."""
        if self.problems:
            raise StoreCorrupt("\n  ".join(("the store is not what its ledger says:", *self.problems)))


def inspect(store: Store, head: str | None = None) -> Inspection:
    """Check everything in the store that needs no model; another process may go on writing.

    `head` is a digest that was kept elsewhere, or its first 12 digits or more: the entry that has it must still be
    there, and what is no digest is a `RequestError`. Without one, a ledger whose last entries were cut off, or that was
    rewritten from some entry on, looks sound. Facts are not examined while the chain is broken, and strays are told of
    a sound store only: from a damaged one nothing should be removed.
    """
    if head is not None and not re.fullmatch(rf"[0-9a-f]{{{ABBREVIATED},64}}", head):
        raise RequestError(
            f"{head!r} is not a digest. Give the 64 hex digits of a head that was kept, or the first {ABBREVIATED}."
        )
    ledger, files = store.ledger, own_files(store.layout)
    statistics = ObjectStore(store.layout.statistics)
    with ledger.snapshot():
        entries, broken = _chain(ledger)
        found = [
            _check("database", ledger, lambda: _database(ledger.db)),
            _check("schema", ledger, lambda: _schema(ledger)),
            Check("chain", len(entries) + len(broken), tuple(broken)),
            _check("columns", ledger, lambda: _columns(ledger.db, entries)),
            _check("requests", ledger, lambda: _requests(ledger.db, entries)),
            _check("facts", ledger, lambda: (0, []) if broken else _facts(ledger, entries)),
        ]
    found += [
        _check("records", ledger, lambda: _records(store.objects, entries)),
        _check("statistics", ledger, lambda: _statistics(statistics, entries)),
        _check("head", ledger, lambda: _head(entries, head)),
    ]
    sound = not any(check.problems for check in found)
    unneeded = strays(store.layout, files, entries) if sound else ()
    return Inspection(entries[-1].digest if entries else GENESIS, tuple(found), unneeded)


def _check(name: str, ledger: Ledger, examine: Callable[[], Findings]) -> Check:
    """Run one check; when reading fails, the error is what it found."""
    try:
        with sqlite_errors("reading", ledger.path):
            examined, problems = examine()
    except StoreError as error:
        examined, problems = 0, [str(error)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        examined, problems = 0, [f"an entry says of its {name} what makes no sense: {error!r}."]
    return Check(name, examined, tuple(problems))


def _chain(ledger: Ledger) -> tuple[list[Entry], list[str]]:
    """The entries that have the digest of their body, and a sentence about each that has not or is out of place."""
    entries: list[Entry] = []
    problems: list[str] = []
    seq, digest = -1, GENESIS
    try:
        for row in _links(ledger):
            if (row[0], row[2]) != (seq + 1, digest):
                problems.append(f"ledger entry {row[0]} does not follow the entry before it.")
            seq, digest, _ = row
            try:
                entries.append(typed(Entry.from_row(*row, _body(ledger, seq))))
            except StoreError as error:
                problems.append(str(error))
    except StoreError as error:
        problems.append(str(error))
    return entries, problems


def _links(ledger: Ledger) -> list[tuple[int, str, str]]:
    with sqlite_errors("reading", ledger.path):
        return ledger.db.execute("SELECT seq, digest, prev FROM entries ORDER BY seq").fetchall()


def _body(ledger: Ledger, seq: int) -> str:
    with sqlite_errors(f"reading entry {seq} of", ledger.path):
        (body,) = ledger.db.execute("SELECT body FROM entries WHERE seq = ?", [seq]).fetchone()
    return str(body)


def _database(db: Database) -> Findings:
    """SQLite's own checks of the file's pages and of the rows that refer to others."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    found = [text for (text,) in db.execute("PRAGMA integrity_check").fetchall() if text != "ok"]
    dangling = db.execute("PRAGMA foreign_key_check").fetchall()
    return pages, [
        *(f"the ledger's file is damaged: {text}" for text in found),
        *(f"row {row} of table {table} belongs to no row of {other}." for table, row, other, _ in dangling),
    ]


def _schema(ledger: Ledger) -> Findings:
    """Compare tables, views and triggers with those of a new ledger of the same format."""
    with fresh(ledger.format) as new:
        found, expected = _definitions(ledger.db), _definitions(new)
    return len(expected), [
        *(f"{kind} {name} of the ledger is missing." for kind, name in sorted(expected.keys() - found.keys())),
        *(f"{kind} {name} in the ledger is none of ours." for kind, name in sorted(found.keys() - expected.keys())),
        *(
            f"{kind} {name} of the ledger is not as it was made."
            for kind, name in sorted(found.keys() & expected.keys())
            if found[kind, name] != expected[kind, name]
        ),
    ]


def _definitions(db: Database) -> dict[tuple[str, str], tuple[str, str | None]]:
    """The SQL of each table, view, trigger and index, without the table in which sqlite-utils notes migrations."""
    rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    notes = {("table", NOTES), ("index", NOTES)}
    return {(kind, name): (table, sql) for kind, name, table, sql in rows if (kind, table) not in notes}


def _columns(db: Database, entries: Sequence[Entry]) -> Findings:
    """Compare the generated columns, which SQL users read, with the bodies."""
    problems = []
    for entry in entries:
        row = db.execute(
            "SELECT kind, time, actor, reason, method, record, weights FROM entries WHERE seq = ?", [entry.seq]
        ).fetchone()
        for name, value in zip(GENERATED, row, strict=True):
            if value != _as_column(entry.body.get(name)):
                problems.append(f"entry {entry.seq}: its column {name} does not say what its body says.")
    return len(entries), problems


def _as_column(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else canonical_json(value)


def _requests(db: Database, entries: Sequence[Entry]) -> Findings:
    """Compare the table of request ids with the bodies; ids of a damaged entry cannot be judged."""
    sound = {entry.seq for entry in entries}
    rows = db.execute("SELECT id, seq, content FROM requests").fetchall()
    found = {(id, seq, content) for id, seq, content in rows if seq in sound}
    expected = {(id, entry.seq, content) for entry in entries for id, content in entry.body["requests"].items()}
    return len(rows), [
        *(
            f"entry {seq}: its request {id!r} is missing or has another content."
            for id, seq, _ in sorted(expected - found)
        ),
        *(f"request {id!r} claims entry {seq}, which does not say so." for id, seq, _ in sorted(found - expected)),
    ]


def _facts(ledger: Ledger, entries: Sequence[Entry]) -> Findings:
    """Compare the view of facts, which SQL users read, with the history; in older formats it has fewer columns."""
    cursor = ledger.db.execute("SELECT * FROM facts")
    names = [name for name, *_ in cursor.description]
    shown = {row.get("id"): row for row in (dict(zip(names, values, strict=True)) for values in cursor.fetchall())}
    told = {id: _shown(fact) for id, fact in lives(entries).items()}
    compared = [name for name in names if name != "position"]
    differing = [
        id
        for id in dict.fromkeys([*told, *shown])
        if id not in told or id not in shown or any(told[id].get(name) != shown[id][name] for name in compared)
    ]
    return len(told), [f"fact {id!r} is not shown as the entries tell it." for id in differing]


def _shown(fact: FactLife) -> dict[str, Any]:
    request = fact.request
    texts = {"subject": request.subject, "prompt": request.prompt, "target": request.target_new}
    return {"id": fact.id, "slot": fact.slot, "seq": fact.seq, "status": fact.status, "since": fact.since, **texts}


def _records(objects: ObjectStore, entries: Sequence[Entry]) -> Findings:
    """Check that every record exists, has the bytes it is named by, can be read, and is of its entry's facts."""
    examined, problems = 0, []
    kind = entries[0].body.get("memory_kind", KernelRecord.kind) if entries else KernelRecord.kind
    for entry in entries:
        if entry.record is not None:
            examined += 1
            try:
                if not _fits(read_record(objects.get(entry.record), kind), entry):
                    problems.append(f"entry {entry.seq}: record {entry.record} is not of the facts the entry names.")
            except StoreError as error:
                problems.append(f"entry {entry.seq}: {error}")
    return examined, problems


def _fits(record: Record, entry: Entry) -> bool:
    """Whether the record's facts are those of the entry's columns, its new ones, or those it takes out or restores."""
    body = entry.body
    try:
        if "columns" in body:
            places = zip(record.facts, body["columns"], strict=True)
            return all(fact in column for fact, column in places)
        if entry.kind in EDITS:
            return list(record.facts) == [fact["id"] for fact in added_facts(body)]
        named = {*body["facts"], *body.get("restored", ()), *body.get("superseded", ())}
        return set(body["facts"]) <= set(record.facts) <= named
    except (KeyError, TypeError, ValueError):
        return False


def _statistics(objects: ObjectStore, entries: Sequence[Entry]) -> Findings:
    """Check that the second moments the store is pinned to exist and have the bytes they are named by."""
    named, problems = named_statistics(entries), []
    for digest, seq in named.items():
        try:
            objects.get(digest)
        except StoreError as error:
            problems.append(f"entry {seq}: statistics: {error}")
    return len(named), problems


def _head(entries: Sequence[Entry], wanted: str | None) -> Findings:
    """Check that the entry whose digest was kept elsewhere is still there; without a digest nothing is examined."""
    if wanted is None:
        return 0, []
    if any(digest.startswith(wanted) for digest in (GENESIS, *(entry.digest for entry in entries))):
        return 1, []
    return 1, [f"no entry has the digest {wanted}: the ledger's tail was cut off, or its history was written anew."]
