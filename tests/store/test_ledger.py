"""The ledger takes one more entry at its end, and nothing else; what was changed behind its back is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.errors import RequestError, StoreBusy, StoreCorrupt, StoreError, StoreReadOnly
from lifelong_edit.facts import canonical_json
from lifelong_edit.store import GENESIS, Entry, Ledger

Bodies = Callable[..., dict[str, Any]]
CONTENT = "c" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "odd ?#%41 name.db"


@pytest.fixture
def ledger(path: Path, edit_body: Bodies) -> Iterator[Ledger]:
    """Three entries: two edits of two facts, and a revert."""
    with Ledger.create(path) as ledger:
        first = ledger.append("edit", edit_body("a", "b"), {"a": CONTENT, "b": CONTENT}, GENESIS)
        second = ledger.append("edit", edit_body("c", "d"), {"c": CONTENT, "d": CONTENT}, first.digest)
        ledger.append("revert", {**edit_body(), "facts": ["a"]}, {}, second.digest)
        yield ledger


def head(ledger: Ledger) -> Entry:
    found = ledger.head()
    assert found is not None
    return found


def test_an_empty_ledger_has_no_head(path: Path) -> None:
    with Ledger.create(path) as ledger:
        assert ledger.head() is None and ledger.entries() == [] and ledger.request("a") is None


def test_entries_come_back_as_they_were_given(ledger: Ledger, edit_body: Bodies) -> None:
    body = {
        **edit_body("e"),
        "loss": [0.1, -0.0, 1e300],
        "text": "Ünï\u2028",
        "keys": {10: "x", 9: "y"},
        "pair": (1, 2),
    }
    given = ledger.append("edit", body, {"e": CONTENT}, head(ledger).digest)
    assert ledger.entries()[-1] == given == ledger.head()
    assert given.body["keys"] == {"10": "x", "9": "y"} and given.body["requests"] == {"e": CONTENT}
    assert (given.seq, given.kind, given.time, given.weights) == (3, "edit", "2026-01-01T00:00:00Z", "a" * 64)


def test_the_chain_is_what_it_says(ledger: Ledger) -> None:
    entries = ledger.entries()
    assert [entry.seq for entry in entries] == [0, 1, 2]
    assert [entry.prev for entry in entries] == [GENESIS, entries[0].digest, entries[1].digest]
    for entry in entries:
        assert hashlib.sha256(canonical_json(entry.body).encode()).hexdigest() == entry.digest
        assert (entry.body["seq"], entry.body["prev"]) == (entry.seq, entry.prev)
    assert ledger.entries(upto=1) == entries[:2]


def test_a_change_computed_on_another_head_is_refused(ledger: Ledger, edit_body: Bodies) -> None:
    before = ledger.entries()
    for expected in (GENESIS, before[1].digest, "", "f" * 64):
        with pytest.raises(StoreBusy, match="head"):
            ledger.append("edit", edit_body("x"), {"x": CONTENT}, expected)
    assert ledger.entries() == before and ledger.request("x") is None


def test_a_request_is_committed_once(ledger: Ledger, edit_body: Bodies) -> None:
    before = ledger.entries()
    assert ledger.request("c") == (1, CONTENT)
    with pytest.raises(RequestError, match="'c' was committed at seq 1"):
        ledger.append("edit", edit_body("x"), {"x": CONTENT, "c": CONTENT}, head(ledger).digest)
    assert ledger.entries() == before and ledger.request("x") is None


@pytest.mark.parametrize(
    "change",
    [
        {"loss": float("nan")},
        {"loss": object()},
        {"text": "\ud800"},
        {"record": "../x"},
        {"weights": 7},
        {"time": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_body_that_could_not_be_read_leaves_nothing(ledger: Ledger, edit_body: Bodies, change: Any) -> None:
    before = ledger.entries()
    with pytest.raises((RequestError, StoreError)):
        ledger.append("edit", {**edit_body("x"), **change}, {"x": CONTENT}, head(ledger).digest)
    assert ledger.entries() == before and ledger.request("x") is None
    ledger.append("edit", edit_body("x"), {"x": CONTENT}, head(ledger).digest)


def test_a_request_that_cannot_be_kept_takes_the_entry_with_it(ledger: Ledger, edit_body: Bodies) -> None:
    before = ledger.entries()
    with pytest.raises(StoreError):
        ledger.append("edit", edit_body("x"), {"x": CONTENT, "y": "not a digest"}, head(ledger).digest)
    assert ledger.entries() == before and ledger.request("x") is None


def test_an_id_that_is_no_text_is_the_users_mistake(ledger: Ledger, edit_body: Bodies) -> None:
    with pytest.raises(RequestError, match="not valid Unicode"):
        ledger.request("\ud800")
    with pytest.raises(RequestError, match="not valid Unicode"):
        ledger.append("edit", edit_body("x"), {"\ud800": CONTENT}, head(ledger).digest)


FORBIDDEN = [
    "UPDATE entries SET body = body WHERE seq = 1",
    "UPDATE OR REPLACE entries SET seq = 0 WHERE seq = 1",
    "DELETE FROM entries WHERE seq = 2",
    "DELETE FROM requests",
    "UPDATE requests SET seq = 0",
    "INSERT OR REPLACE INTO requests SELECT id, 2, content FROM requests WHERE seq = 0",
    f"INSERT INTO requests VALUES ('late', 0, '{CONTENT}')",
    "INSERT OR REPLACE INTO entries (seq, digest, prev, body) SELECT seq, digest, prev, body FROM entries",
    f"INSERT INTO entries (seq, digest, prev, body) SELECT 5, '{CONTENT}', digest, body FROM entries WHERE seq = 2",
    f"INSERT INTO entries (seq, digest, prev, body) SELECT 3, '{CONTENT}', prev, body FROM entries WHERE seq = 2",
    f"INSERT INTO entries (digest, prev, body) SELECT '{CONTENT}', digest, body FROM entries WHERE seq = 2",
    "INSERT OR REPLACE INTO entries (seq, digest, prev, body) "
    "SELECT 3, (SELECT digest FROM entries WHERE seq = 0), digest, body FROM entries WHERE seq = 2",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_file_itself_forbids_all_but_appending(ledger: Ledger, path: Path, statement: str) -> None:
    before = ledger.entries()
    foreign = sqlite3.connect(path, isolation_level=None)  # without recursive_triggers
    for connection in (ledger.db.conn, foreign):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
    foreign.close()
    assert ledger.entries() == before


def tampered(path: Path, *statements: str) -> None:
    """Change the file as someone would who drops the triggers first."""
    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.close()


TAMPERED = {
    "body": ("UPDATE entries SET body = replace(body, 'Tarsis', 'Venice') WHERE seq = 1", 1),
    "whitespace": ("UPDATE entries SET body = body || ' ' WHERE seq = 1", 1),
    "digest": (f"UPDATE entries SET digest = '{CONTENT}' WHERE seq = 0", 0),
    "prev": (f"UPDATE entries SET prev = '{CONTENT}' WHERE seq = 2", 2),
    "middle": ("DELETE FROM entries WHERE seq = 1", 2),
    "first": ("DELETE FROM entries WHERE seq = 0", 1),
    "moved": ("UPDATE entries SET seq = 7 WHERE seq = 2", 7),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_changed_entry_is_named(ledger: Ledger, path: Path, name: str) -> None:
    statement, seq = TAMPERED[name]
    tampered(path, statement)
    with pytest.raises(StoreCorrupt, match=f"entry {seq} "):
        ledger.entries()


def test_an_entry_recomputed_without_its_successors_breaks_the_chain(ledger: Ledger, path: Path) -> None:
    first, second, _ = ledger.entries()
    forged = Entry.after(first, {**second.body, "reason": "forged"})
    tampered(path, "DELETE FROM entries WHERE seq = 1")
    connection = sqlite3.connect(path, isolation_level=None)
    row = (forged.seq, forged.digest, forged.prev, forged.text)
    connection.execute("INSERT INTO entries (seq, digest, prev, body) VALUES (?, ?, ?, ?)", row)
    connection.close()
    with pytest.raises(StoreCorrupt, match="entry 2 does not follow"):
        ledger.entries()


def test_generated_columns_and_views_say_what_the_bodies_say(ledger: Ledger) -> None:
    columns = ledger.db.execute("SELECT kind, time, actor, reason, method, record, weights FROM entries").fetchall()
    names = ("kind", "time", "actor", "reason", "method", "record", "weights")
    assert columns == [tuple(entry.body.get(name) for name in names) for entry in ledger.entries()]
    assert ledger.db.execute("SELECT seq, kind, facts FROM commits").fetchall() == [
        (0, "edit", 2),
        (1, "edit", 2),
        (2, "revert", 1),
    ]
    assert ledger.db.execute("SELECT id, subject, prompt, target, seq, position, status FROM facts").fetchall() == [
        ("a", "Ada", "{} lives in", "Tarsis", 0, 0, "reverted"),
        ("b", "Ada", "{} lives in", "Tarsis", 0, 1, "active"),
        ("c", "Ada", "{} lives in", "Tarsis", 1, 0, "active"),
        ("d", "Ada", "{} lives in", "Tarsis", 1, 1, "active"),
    ]


def test_the_connection_is_durable_and_the_tables_strict(ledger: Ledger) -> None:
    pragmas = {"journal_mode": "delete", "synchronous": 3, "recursive_triggers": 1}
    for name, value in pragmas.items():
        assert ledger.db.conn.execute(f"PRAGMA {name}").fetchone() == (value,)
    strict = ledger.db.execute("SELECT name FROM pragma_table_list WHERE strict = 1").fetchall()
    assert {name for (name,) in strict} == {"entries", "requests"}


def test_a_reader_reads_beside_a_writer_and_cannot_write(ledger: Ledger, path: Path, edit_body: Bodies) -> None:
    with Ledger.open(path, read_only=True) as reader:
        assert reader.entries() == ledger.entries()
        with pytest.raises(StoreReadOnly):
            reader.append("edit", edit_body("x"), {}, head(ledger).digest)
        added = ledger.append("edit", edit_body("x"), {}, head(ledger).digest)
        assert reader.head() == added


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_write_permission_reads(ledger: Ledger, path: Path) -> None:
    count = len(ledger.entries())
    ledger.close()
    for folder in path.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        found = -1
        try:
            os.setuid(65534)
            with Ledger.open(path, read_only=True) as reader:
                found = len(reader.entries())
        finally:  # whatever happened, the copy of the test run ends here
            os._exit(0 if found == count else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_two_writers_never_fork_the_chain(ledger: Ledger, path: Path, edit_body: Bodies) -> None:
    with Ledger.open(path, patience=0.0) as other:
        shared = head(ledger).digest
        other.append("edit", edit_body("x"), {"x": CONTENT}, shared)
        with pytest.raises(StoreBusy, match="head"):
            ledger.append("edit", edit_body("y"), {"y": CONTENT}, shared)
        ledger.db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="locked"):
            other.append("edit", edit_body("y"), {"y": CONTENT}, head(other).digest)
        ledger.db.execute("ROLLBACK")
        other.append("edit", edit_body("y"), {"y": CONTENT}, head(other).digest)
    assert [entry.seq for entry in ledger.entries()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("read_only", [True, False])
def test_a_missing_ledger_is_an_error_and_stays_missing(path: Path, read_only: bool) -> None:
    with pytest.raises(StoreError, match="never recreated"):
        Ledger.open(path, read_only)
    assert not path.exists()


def test_creating_over_entries_is_refused(ledger: Ledger, path: Path) -> None:
    with pytest.raises(StoreError, match="already"):
        Ledger.create(path)
    assert len(ledger.entries()) == 3


@pytest.mark.parametrize("left", [b"", None], ids=["an empty file", "tables without an entry"])
def test_an_interrupted_creation_is_continued(path: Path, left: bytes | None) -> None:
    if left is None:
        Ledger.create(path).close()
    else:
        path.write_bytes(left)
    with Ledger.create(path) as ledger:
        assert ledger.head() is None


def foreign_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def newer_ledger(path: Path) -> None:
    Ledger.create(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA user_version = 3")
    connection.close()


def without_tables(path: Path) -> None:
    Ledger.create(path).close()
    tampered(path, "DROP TABLE requests")


def endless(path: Path) -> None:
    Ledger.create(path).close()
    numbers = "WITH RECURSIVE n (seq) AS (SELECT 0 UNION ALL SELECT seq + 1 FROM n)"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TABLE entries")
    connection.execute(f"CREATE VIEW entries AS {numbers} SELECT seq, 1 AS digest, 2 AS prev, 3 AS body FROM n")
    connection.close()


def without_format(path: Path) -> None:
    Ledger.create(path).close()
    tampered(path, "PRAGMA user_version = 0")


CRAFTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not the ledger"),
    "text": (lambda path: path.write_bytes(b"not a database, but long enough" * 99), "not a database"),
    "foreign": (foreign_database, "not the ledger"),
    "newer": (newer_ledger, "newer version"),
    "without tables": (without_tables, "lacks its table"),
    "a view in a table's place": (endless, "lacks its table"),
    "without a format": (without_format, "not the ledger"),
}


@pytest.mark.parametrize("name", CRAFTED)
@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_ledger_is_refused_and_left_alone(path: Path, name: str, read_only: bool) -> None:
    make, message = CRAFTED[name]
    make(path)
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match=message):
        Ledger.open(path, read_only)
    assert path.read_bytes() == before


def test_no_flipped_bit_changes_history_unnoticed(ledger: Ledger, path: Path) -> None:
    expected = ledger.entries()
    ledger.close()
    sound = path.read_bytes()
    noticed = 0
    for bit in range(0, 8 * len(sound), 1021):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            with Ledger.open(path, read_only=True) as reader:
                found = reader.entries()
        except StoreError:
            noticed += 1
        else:
            assert json.dumps([entry.body for entry in found]) == json.dumps([entry.body for entry in expected])
    assert noticed > 0
