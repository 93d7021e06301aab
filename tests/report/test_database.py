"""The database to browse holds what the ledger tells, links and finds it, and every query that is offered answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.report.database import NAME, QUERIES, TABLES, metadata, write_browsable
from lifelong_edit.report.trackers import numbers_of
from lifelong_edit.store import Entry
from tests.engine.editors import edited, lived_in


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LifelongEditor]:
    with lived_in(tmp_path_factory.mktemp("browse") / "store") as made:
        yield made


@pytest.fixture(scope="module")
def db(editor: LifelongEditor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path = tmp_path_factory.mktemp("db") / f"{NAME}.db"
    write_browsable(editor.history(), path)
    with closing(Database(path)) as opened:
        yield opened


def test_every_entry_fact_score_and_figure_is_there(editor: LifelongEditor, db: Database) -> None:
    entries = editor.history()
    assert [(row["seq"], row["digest"]) for row in db["entries"].rows] == [(e.seq, e.digest) for e in entries]
    statuses = Counter(row["status"] for row in db["facts"].rows)
    assert statuses == Counter(fact.status for fact in editor.facts().values())
    scores = sum(len(own) for e in entries for own in e.body.get("scores", {}).values())
    assert db["scores"].count == scores and db["figures"].count == sum(len(numbers_of(e)) for e in entries)
    cells = {(r["edit"], r["entry"]): r["value"] for r in db["retention"].rows if r["metric"] == "rewrite/argmax"}
    assert cells == pytest.approx(dict(editor.retention().values))


def test_tables_are_linked_and_described(db: Database) -> None:
    assert {key.other_table for key in db["scores"].foreign_keys} == {"entries", "facts"}
    assert list(db.query("pragma foreign_key_check")) == []
    for name, (_, columns, sort) in TABLES.items():
        assert {*columns, *([sort] if sort else [])} <= set(db[name].columns_dict)
    told = metadata("store", "head")["databases"][NAME]
    assert set(told["tables"]) == set(TABLES) and told["queries"] == QUERIES


@pytest.mark.parametrize(("words", "found"), [("Quill", "ada"), ("Tarsis", "land"), ("works", "work")])
def test_facts_are_found_by_subject_target_and_prompt(db: Database, words: str, found: str) -> None:
    assert found in {row["id"] for row in db["facts"].search(words)}


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_answers(db: Database, name: str) -> None:
    rows = list(db.query(QUERIES[name]["sql"], {"fact": "ada", "name": "norm"}))
    assert rows or name == "forgotten_now"


def test_what_is_offered_for_forgotten_facts_finds_them(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        entries = editor.history()
    path = tmp_path / "history.db"
    write_browsable(entries, path)
    with closing(Database(path)) as db:
        db["facts"].update("ada", {"at_edit": 1.0, "newest": 1.0})
        assert not list(db.query(QUERIES["forgotten_now"]["sql"]))
        db["facts"].update("ada", {"newest": 0.0})
        assert [row["id"] for row in db.query(QUERIES["forgotten_now"]["sql"])] == ["ada"]


def test_an_empty_store_has_every_table_and_a_file_is_not_written_over(tmp_path: Path) -> None:
    with edited(tmp_path / "store", ()) as editor:
        entries = editor.history()
    write_browsable(entries, tmp_path / "history.db")
    with closing(Database(tmp_path / "history.db")) as db:
        assert set(TABLES) <= set(db.table_names()) and list(db["facts"].search("Quill")) == []
        for query in QUERIES.values():
            assert all(row.get("kind") == "init" for row in db.query(query["sql"], {"fact": "ada", "name": "norm"}))
    with pytest.raises(RequestError, match="not written over"):
        write_browsable(entries, tmp_path / "history.db")


def test_scores_are_numbers_also_after_many_facts_that_nobody_asked(tmp_path: Path) -> None:
    """Column types that are guessed from the first hundred rows would make texts of them."""
    many = [EditRequest("{} was born in", f"Nobody {n}", "Oran", id=f"n{n}").to_dict() for n in range(120)]
    facts = [{"id": request["id"], "slot": request["id"], "request": request} for request in many]
    about = {"versions": {}, "seed": 0, "time": "2026-01-01T00:00:00Z", "requests": {}}
    first = Entry.after(None, {**about, "kind": "init"})
    written = Entry.after(first, {**about, "kind": "edit", "facts": facts, "scores": {EFFICACY: {"n119": 1.0}}})
    asked = Entry.after(written, {**about, "kind": "measure", "scores": {EFFICACY: {"n119": 0.0}}})
    write_browsable([first, written, asked], tmp_path / "history.db")
    with closing(Database(tmp_path / "history.db")) as db:
        assert [row["id"] for row in db.query(QUERIES["forgotten_now"]["sql"])] == ["n119"]
