"""The ledger's tables and views, in SQL, and how a ledger comes to this version's format: one step a format.

Of an entry only seq, digest, prev and body are stored; the rest follows. sqlite-utils notes in the file which steps
were taken. A format's script is never changed once it was released: ledgers of that format exist. What is new is a
new format.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

APPLICATION_ID = 0x4C454447
FORMAT = 2

FORMAT_1 = """
PRAGMA application_id = 0x4C454447;
PRAGMA user_version = 1;

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
INSERT INTO meta VALUES ('format', '1');

CREATE TABLE entries (
    seq INTEGER PRIMARY KEY CHECK (seq >= 0),
    digest TEXT NOT NULL UNIQUE CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    prev TEXT NOT NULL CHECK (length(prev) = 64 AND prev NOT GLOB '*[^0-9a-f]*'),
    body TEXT NOT NULL CHECK (json_valid(body)),
    kind TEXT NOT NULL GENERATED ALWAYS AS (json_extract(body, '$.kind')) VIRTUAL,
    time TEXT NOT NULL GENERATED ALWAYS AS (json_extract(body, '$.time')) VIRTUAL,
    actor TEXT GENERATED ALWAYS AS (json_extract(body, '$.actor')) VIRTUAL,
    reason TEXT GENERATED ALWAYS AS (json_extract(body, '$.reason')) VIRTUAL,
    method TEXT GENERATED ALWAYS AS (json_extract(body, '$.method')) VIRTUAL,
    record TEXT GENERATED ALWAYS AS (json_extract(body, '$.record')) VIRTUAL
        CHECK (record IS NULL OR (length(record) = 64 AND record NOT GLOB '*[^0-9a-f]*')),
    weights TEXT GENERATED ALWAYS AS (json_extract(body, '$.weights')) VIRTUAL
        CHECK (weights IS NULL OR (length(weights) = 64 AND weights NOT GLOB '*[^0-9a-f]*'))
) STRICT;

CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL REFERENCES entries (seq),
    content TEXT NOT NULL CHECK (length(content) = 64 AND content NOT GLOB '*[^0-9a-f]*')
) STRICT;

CREATE TRIGGER meta_insert BEFORE INSERT ON meta BEGIN SELECT RAISE(ABORT, 'meta is fixed'); END;
CREATE TRIGGER meta_update BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'meta is fixed'); END;
CREATE TRIGGER meta_delete BEFORE DELETE ON meta BEGIN SELECT RAISE(ABORT, 'meta is fixed'); END;
CREATE TRIGGER entries_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TRIGGER entries_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TRIGGER requests_update BEFORE UPDATE ON requests BEGIN SELECT RAISE(ABORT, 'requests are append-only'); END;
CREATE TRIGGER requests_delete BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'requests are append-only'); END;

-- The look for an equal digest or id stops INSERT OR REPLACE, which fires no delete trigger on a foreign connection.
CREATE TRIGGER entries_insert BEFORE INSERT ON entries
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), -1) + 1 FROM entries)
    OR NEW.prev IS NOT coalesce(
        (SELECT digest FROM entries ORDER BY seq DESC LIMIT 1),
        '0000000000000000000000000000000000000000000000000000000000000000')
    OR EXISTS (SELECT 1 FROM entries WHERE digest = NEW.digest)
BEGIN SELECT RAISE(ABORT, 'an entry must follow the last one'); END;

CREATE TRIGGER requests_insert BEFORE INSERT ON requests
WHEN NEW.seq IS NOT (SELECT max(seq) FROM entries) OR EXISTS (SELECT 1 FROM requests WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'a request must be new and belong to the last entry'); END;

CREATE VIEW commits AS
SELECT seq, time, kind, actor, reason, method,
    coalesce(json_array_length(body, '$.facts'), 0) AS facts, record, weights, digest
FROM entries;

CREATE VIEW facts AS
WITH
    edited AS (
        SELECT fact.value AS fact, fact.key AS position, entries.seq AS seq
        FROM entries, json_each(entries.body, '$.facts') AS fact WHERE entries.kind = 'edit'
    ),
    reverted (id) AS (
        SELECT fact.value FROM entries, json_each(entries.body, '$.facts') AS fact WHERE entries.kind = 'revert'
    )
SELECT
    json_extract(fact, '$.id') AS id,
    json_extract(fact, '$.request.subject') AS subject,
    json_extract(fact, '$.request.prompt') AS prompt,
    json_extract(fact, '$.request.target_new') AS target,
    seq,
    position,
    CASE WHEN json_extract(fact, '$.id') IN reverted THEN 'reverted' ELSE 'active' END AS status
FROM edited;
"""

FORMAT_2 = """
PRAGMA user_version = 2;

DROP TABLE meta;
DROP VIEW facts;

-- A fact is what the last entry that names it made of it; 'since' is the seq of that entry.
CREATE VIEW facts AS
WITH
    written AS (
        SELECT json_extract(fact.value, '$.id') AS id, fact.value AS fact, fact.key AS position, entries.seq AS seq
        FROM entries, json_each(entries.body, '$.facts') AS fact WHERE entries.kind IN ('edit', 'replace', 'protect')
    ),
    named (id, seq, status) AS (
        SELECT id, seq, 'active' FROM written
        UNION ALL
        SELECT fact.value, entries.seq, iif(entries.kind = 'revert', 'reverted', 'active')
        FROM entries, json_each(entries.body, '$.facts') AS fact WHERE entries.kind IN ('revert', 'restore')
        UNION ALL
        SELECT fact.value, entries.seq, 'active'
        FROM entries, json_each(entries.body, '$.restored') AS fact WHERE entries.kind = 'revert'
        UNION ALL
        SELECT fact.value, entries.seq, 'superseded' FROM entries, json_each(entries.body, '$.superseded') AS fact
    ),
    last AS (SELECT id, max(seq) AS since, status FROM named GROUP BY id)
SELECT
    id,
    json_extract(fact, '$.request.subject') AS subject,
    json_extract(fact, '$.request.prompt') AS prompt,
    json_extract(fact, '$.request.target_new') AS target,
    json_extract(fact, '$.slot') AS slot,
    written.seq AS seq,
    position,
    status,
    since
FROM written JOIN last USING (id)
ORDER BY written.seq, position;

-- A tag that was given again points where it was last pointed.
CREATE VIEW tags AS
SELECT
    json_extract(body, '$.tag') AS tag,
    json_extract(body, '$.target') AS target,
    max(seq) AS seq,
    time,
    actor,
    reason
FROM entries WHERE kind = 'tag' GROUP BY 1;

CREATE VIEW retention AS
SELECT
    entries.seq AS seq,
    entries.time AS time,
    json_extract(figure.value, '$.cohort') AS cohort,
    json_extract(figure.value, '$.metric') AS metric,
    json_extract(figure.value, '$.value') AS value,
    json_extract(figure.value, '$.facts') AS facts
FROM entries, json_each(entries.body, '$.retention') AS figure;

CREATE VIEW drift AS
SELECT
    entries.seq AS seq,
    entries.time AS time,
    json_extract(figure.value, '$.metric') AS metric,
    json_extract(figure.value, '$.value') AS value,
    json_extract(figure.value, '$.base') AS base
FROM entries, json_each(entries.body, '$.drift') AS figure WHERE entries.kind = 'measure';
"""

STEPS = Migrations("lifelong-edit")
NOTES = Migrations.migrations_table
"""The table in which sqlite-utils notes which steps were taken; the only table that this file does not define."""


def format_of(db: Database) -> int:
    """The format of the ledger; 0 for a new file."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(db: Database) -> None:
    """Bring the ledger to format `FORMAT`, within the transaction that the caller began: whole, or not at all."""
    STEPS.apply(db)


def fresh(format: int) -> Database:
    """An empty ledger of this format, in memory."""
    db = Database(sqlite3.connect(":memory:", isolation_level=None), execute_plugins=False)
    STEPS.apply(db, stop_before=f"format {format + 1}")
    return db


@STEPS(name="format 1")
def _format_1(db: Database) -> None:
    """Tables, triggers, views; a ledger that was made before steps were noted has them already."""
    if format_of(db) == 0:
        db.executescript(FORMAT_1)


@STEPS(name="format 2")
def _format_2(db: Database) -> None:
    """Views of what supersedes, restores and measures; the format stands in user_version alone."""
    db.executescript(FORMAT_2)
