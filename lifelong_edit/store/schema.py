"""The ledger's tables, in SQL. Everything but seq, digest, prev and body of an entry is derived from its body."""

APPLICATION_ID = 0x4C454447
FORMAT = 1

SCHEMA = """
BEGIN IMMEDIATE;
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
COMMIT;
"""
