"""Whatever is wrong with a store is told, all of it; a sound one has nothing wrong, and looking changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.store import GENESIS, Inspection, Store, inspect
from tests.store.stores import COMMON, CONTENT, commit, contents, fact, fill, old_store, record_of, rewritten, tampered

FIGURES = {"chain": 8, "columns": 8, "requests": 3, "facts": 3, "records": 5, "statistics": 1, "head": 0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with Store.create(tmp_path / "store") as store:
        fill(store)
    return tmp_path / "store"


def inspected(root: Path, head: str | None = None) -> Inspection:
    with Store.open(root, read_only=True) as store:
        return inspect(store, head)


def head_of(root: Path) -> str:
    return inspected(root).head


def object_of(root: Path, seq: int) -> Path:
    with Store.open(root, read_only=True) as store:
        record = store.ledger.entries()[seq].record
        assert record is not None
        return store.objects.path(record)


def test_a_sound_store_has_no_problems_and_is_left_alone(root: Path) -> None:
    before = contents(root)
    found = inspected(root)
    assert found.problems == () and found.strays == ()
    examined = {check.name: check.examined for check in found.checks}
    assert examined == FIGURES | {"database": examined["database"], "schema": 15} and examined["database"] > 0
    found.require_sound()
    assert contents(root) == before


def test_a_writer_and_whoever_reads_beside_it_see_the_same(root: Path) -> None:
    with Store.open(root) as writer:
        assert inspect(writer) == inspected(root)
        commit(writer, "tag", tag="later", target=0)
        assert inspect(writer).head == inspected(root).head == writer.ledger.entries()[8].digest


@pytest.mark.parametrize("read_only", [True, False])
def test_an_old_store_is_sound_as_it_is_and_as_it_becomes(tmp_path: Path, read_only: bool) -> None:
    with Store.open(old_store(tmp_path / "old"), read_only) as store:
        found = inspect(store)
    found.require_sound()
    examined = {check.name: check.examined for check in found.checks}
    assert [examined[name] for name in FIGURES] == [5, 5, 6, 6, 4, 1, 0]


LEDGER: dict[str, tuple[str, list[str]]] = {
    "a body": (
        "UPDATE entries SET body = replace(body, 'Tarsis', 'Venice') WHERE seq = 1",
        ["ledger entry 1 is not what its digest says"],
    ),
    "two bodies": (
        "UPDATE entries SET body = replace(body, 'Ada', 'Eve') WHERE seq IN (1, 2)",
        ["ledger entry 1 is not what", "ledger entry 2 is not what"],
    ),
    "no text": (
        "UPDATE entries SET body = CAST(replace(CAST(body AS BLOB), x'70657270', x'706572ff') AS TEXT) WHERE seq = 6",
        ["reading entry 6 of"],
    ),
    "an entry taken out": ("DELETE FROM entries WHERE seq = 6", ["ledger entry 7 does not follow"]),
    "a request taken out": ("DELETE FROM requests WHERE id = 'b'", ["entry 1: its request 'b' is missing"]),
    "a request's content": (
        f"UPDATE requests SET content = '{'d' * 64}' WHERE id = 'c'",
        ["entry 2: its request 'c' is missing or has another", "request 'c' claims entry 2"],
    ),
    "a request put in": (f"INSERT INTO requests VALUES ('x', 3, '{CONTENT}')", ["request 'x' claims entry 3"]),
    "a request of no entry": (
        f"INSERT INTO requests VALUES ('x', 99, '{CONTENT}')",
        ["of table requests belongs to no row of entries"],
    ),
    "a table": ("CREATE TABLE other (x)", ["table other in the ledger is none of ours"]),
    "a trigger": (
        "CREATE TRIGGER t BEFORE INSERT ON entries BEGIN SELECT 1; END",
        ["trigger t in the ledger is none of ours"],
    ),
    "no view": (
        "DROP VIEW facts",
        ["view facts of the ledger is missing", "no such table: facts"],
    ),
}


@pytest.mark.parametrize("name", LEDGER)
def test_what_was_done_to_the_ledger_is_told(root: Path, name: str) -> None:
    statement, expected = LEDGER[name]
    before = (root / "ledger.db").read_bytes()
    tampered(root / "ledger.db", statement)
    assert (root / "ledger.db").read_bytes() != before
    problems = inspected(root).problems
    assert len(problems) == len(expected)
    assert all(part in problem for part, problem in zip(expected, problems, strict=True)), problems


def execute(root: Path, *statements: str) -> None:
    connection = sqlite3.connect(root / "ledger.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_dropped_trigger_is_missed(root: Path) -> None:
    with Store.open(root, read_only=True) as store:
        names = store.ledger.db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    execute(root, *(f"DROP TRIGGER {name}" for (name,) in names))
    assert len(names) == 6
    assert inspected(root).problems == tuple(f"trigger {name} of the ledger is missing." for (name,) in sorted(names))


def test_a_view_that_lies_is_told_by_its_text_and_by_what_it_shows(root: Path) -> None:
    execute(
        root,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, '''superseded''', '''active''') WHERE name = 'facts'",
    )
    assert inspected(root).problems == (
        "view facts of the ledger is not as it was made.",
        "fact 'a' is not shown as the entries tell it.",
    )


def test_a_generated_column_that_lies_is_told(root: Path) -> None:
    execute(
        root,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, '$.actor', '$.kind') WHERE name = 'entries'",
    )
    problems = inspected(root).problems
    assert problems[0] == "table entries of the ledger is not as it was made."
    assert problems[1:] == tuple(f"entry {seq}: its column actor does not say what its body says." for seq in range(8))


def test_damage_that_only_sqlite_sees_is_told(root: Path) -> None:
    """An index that does not lead to its row any more: every row can still be read."""
    path = root / "ledger.db"
    connection = sqlite3.connect(path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    index = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_requests_1'"
    (page,) = connection.execute(index).fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    at = data.rindex(b"a", (page - 1) * size, page * size)
    data[at : at + 1] = b"z"
    path.write_bytes(data)
    problems = inspected(root).problems
    assert problems and all(problem.startswith("the ledger's file is damaged: ") for problem in problems)


def test_only_a_head_that_was_kept_tells_that_the_tail_is_gone(root: Path) -> None:
    head = head_of(root)
    tampered(root / "ledger.db", "DELETE FROM requests WHERE seq = 7", "DELETE FROM entries WHERE seq = 7")
    assert inspected(root).problems == ()
    (problem,) = inspected(root, head).problems
    assert head in problem and "cut off" in problem


def test_only_a_head_that_was_kept_tells_that_all_was_rewritten(root: Path) -> None:
    head = head_of(root)
    with Store.open(root, read_only=True) as store:
        entries = store.ledger.entries()
    entries[1].body["reason"] = "forged"
    rewritten(root / "ledger.db", entries)
    assert inspected(root).problems == ()
    assert "written anew" in inspected(root, head).problems[0]


def test_any_head_the_store_ever_had_is_known(root: Path) -> None:
    with Store.open(root, read_only=True) as store:
        for digest in [GENESIS, *(entry.digest for entry in store.ledger.entries())]:
            found = inspect(store, digest)
            assert found.problems == () and found.checks[-1].examined == 1
            assert inspect(store, digest[:12]).problems == ()
        assert len(inspect(store, "a" * 12).problems) == 1


@pytest.mark.parametrize("head", ["", "HEAD", "7", "a" * 11, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "١" * 64])
def test_what_is_no_digest_is_no_damage(root: Path, head: str) -> None:
    with pytest.raises(RequestError, match="is not a digest"):
        inspected(root, head)


OBJECTS: dict[str, Callable[[Path], object]] = {
    "does not have the bytes": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
    "is missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("said", OBJECTS)
def test_every_damaged_object_is_told_with_the_entry_that_needs_it(root: Path, said: str) -> None:
    for seq in (1, 3):
        OBJECTS[said](object_of(root, seq))
    (statistics,) = (root / "statistics").rglob("*.safetensors")
    OBJECTS[said](statistics)
    problems = inspected(root).problems
    assert [problem[:8] for problem in problems] == ["entry 1:", "entry 3:", "entry 0:"]
    assert all(said in problem for problem in problems)
    with pytest.raises(StoreCorrupt, match=r"(?s)entry 1.*entry 3.*entry 0"):
        inspected(root).require_sound()


@pytest.mark.parametrize("kind", ["edit", "edit in columns", "revert"])
def test_a_record_of_other_facts_is_told(root: Path, kind: str) -> None:
    with Store.open(root) as store:
        if kind == "edit":
            commit(store, "edit", record_of("e", "d"), facts=[fact("d"), fact("e")])
        elif kind == "edit in columns":
            commit(store, "edit", record_of("d"), facts=[fact("d"), fact("e")], columns=[["e"]])
        else:
            commit(store, "revert", record_of("b", keys=False), facts=["c"])
    (problem,) = inspected(root).problems
    assert problem.startswith("entry 8: record ") and "not of the facts" in problem


def test_an_object_that_is_no_record_is_told(root: Path) -> None:
    with Store.open(root) as store:
        store.commit("measure", COMMON, b"no record at all", {}, inspect(store).head)
    (problem,) = inspected(root).problems
    assert problem.startswith("entry 8: a record claims a header")


def test_a_history_that_makes_no_sense_is_told(root: Path) -> None:
    with Store.open(root) as store:
        commit(store, "revert", facts=["never written"])
        commit(store, "init", statistics={"2": "../../etc"})
    problems = inspected(root).problems
    assert ["entry 8" in problems[0], "entry 9" in problems[1], len(problems)] == [True, True, 2]


def test_strays_are_no_problem(root: Path) -> None:
    with Store.open(root) as store:
        stray = store.objects.path(store.objects.put(b"never committed"))
    found = inspected(root)
    assert found.problems == () and [(s.path, s.size) for s in found.strays] == [(stray, 15)]
