"""What can be browsed with SQL is what the entries say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong_edit.store import Entry, Store, lives
from lifelong_edit.store.schema import FORMAT, fresh
from tests.store.stores import COMMON, commit, fact, fill


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store") as store:
        fill(store)
        yield store


def rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in store.ledger.db.execute(sql).fetchall()]


def test_facts_have_a_place_and_a_fate(store: Store) -> None:
    assert rows(store, "SELECT id, subject, prompt, target, slot, seq, position, status, since FROM facts") == [
        ("a", "Ada", "{} lives in", "Tarsis", "slot-a", 1, 0, "superseded", 4),
        ("b", "Ada", "{} lives in", "Tarsis", "slot-b", 1, 1, "reverted", 7),
        ("c", "Ada", "{} lives in", "Tarsis", "slot-c", 2, 0, "active", 4),
    ]


def test_commits_are_all_entries(store: Store) -> None:
    found = rows(store, "SELECT seq, kind, method, facts, record, digest FROM commits")
    counts = [0, 2, 1, 1, 1, 0, 0, 1]
    assert found == [
        (entry.seq, entry.kind, entry.body.get("method"), count, entry.record, entry.digest)
        for entry, count in zip(store.ledger.entries(), counts, strict=True)
    ]


def test_a_tag_points_where_it_was_last_pointed(store: Store) -> None:
    commit(store, "tag", tag="before", target=0, reason="why")
    assert rows(store, "SELECT tag, target, seq, actor, reason FROM tags ORDER BY tag") == [
        ("before", 0, 8, "test", "why"),
        ("release", 2, 5, "test", None),
    ]
    commit(store, "tag", tag="release", target=7)
    assert rows(store, "SELECT target, seq FROM tags WHERE tag = 'release'") == [(7, 9)]


def test_figures_are_listed_one_a_row(store: Store) -> None:
    time = COMMON["time"]
    figures = [{"cohort": 2, "metric": "efficacy", "value": None, "facts": 0}]
    commit(store, "measure", retention=figures)
    assert rows(store, "SELECT seq, time, cohort, metric, value, facts FROM retention ORDER BY seq") == [
        (6, time, 1, "efficacy", 0.5, 2),
        (8, time, 2, "efficacy", None, 0),
    ]
    assert rows(store, "SELECT seq, time, metric, value, base FROM drift") == [(6, time, "perplexity", 3.5, None)]


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """Entries that write, revert, restore and supersede facts of one statement, in any order that makes sense."""
    entries: list[Entry] = []
    active: set[str] = set()
    gone: set[str] = set()

    def some(ids: set[str]) -> list[str]:
        return draw(st.lists(st.sampled_from(sorted(ids)), unique=True)) if ids else []

    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["edit", "replace", "revert", "restore", "measure"]))
        body: dict[str, Any] = {"facts": []}
        back: list[str] = []
        if kind in ("edit", "replace"):
            back = [f"{len(active) + len(gone) + n}" for n in range(draw(st.integers(1, 2)))]
            body |= {"facts": [fact(id) for id in back], "columns": [[id] for id in back], "superseded": some(active)}
        elif kind == "revert":
            back = some(gone)
            body |= {"facts": some(active), "restored": back}
            body["superseded"] = some(active - set(body["facts"])) if back else []
        elif kind == "restore" and gone:
            back = some(gone)
            body |= {"facts": back, "superseded": some(active) if back else []}
        out = {*(body["facts"] if kind == "revert" else ()), *body.get("superseded", ())}
        active, gone = (active | set(back)) - out, (gone - set(back)) | out
        entries.append(Entry.after(entries[-1] if entries else None, {**COMMON, "kind": kind, **body}))
    return entries


@settings(max_examples=100)
@given(histories())
def test_the_view_of_facts_agrees_with_the_history(entries: list[Entry]) -> None:
    with fresh(FORMAT) as db:
        for entry in entries:
            row = [entry.seq, entry.digest, entry.prev, entry.text]
            db.execute("INSERT INTO entries (seq, digest, prev, body) VALUES (?, ?, ?, ?)", row)
        shown = db.execute("SELECT id, slot, seq, status, since FROM facts").fetchall()
    assert shown == [(f.id, f.slot, f.seq, f.status, f.since) for f in lives(entries).values()]
