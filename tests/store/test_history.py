"""What is active follows from the entries alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.store import Column, Entry, History, lives

TIME = {"time": "2026-01-01T00:00:00Z"}


def asking(prompt: str, subject: str) -> dict[str, str]:
    """A request as the ledger keeps it."""
    return {"prompt": prompt, "subject": subject, "target_new": "Oran"}


def chain(*bodies: dict[str, Any]) -> list[Entry]:
    entries: list[Entry] = []
    for body in bodies:
        entries.append(Entry.after(entries[-1] if entries else None, {**TIME, **body}))
    return entries


def edit(*ids: str) -> dict[str, Any]:
    return {"kind": "edit", "facts": [{"id": id, "slot": f"s-{id}", "request": asking(f"{id} {{}}", id)} for id in ids]}


def revert(*ids: str) -> dict[str, Any]:
    return {"kind": "revert", "facts": list(ids)}


def restore(*ids: str, **more: Any) -> dict[str, Any]:
    return {"kind": "restore", "facts": list(ids), **more}


def shared(*columns: list[str], **more: Any) -> dict[str, Any]:
    """An edit whose facts, those not written before, all belong to one slot and answer prompts of their own."""
    new = [{"id": id, "slot": "s", "request": asking(f"{id[0]} {{}}", "S")} for id in more.pop("new")]
    return {"kind": "edit", "facts": new, "columns": list(columns), **more}


def ids(entries: list[Entry]) -> dict[int, list[str]]:
    """The active facts by the seq of their edit."""
    by_seq: dict[int, list[str]] = {}
    for fact in History.of(entries).active.values():
        by_seq.setdefault(fact.seq, []).append(fact.id)
    return by_seq


def chain_of(*bodies: dict[str, Any]) -> list[int]:
    """The seqs of the columns that stand for the slot of `shared`."""
    return [column.seq for column in History.of(chain(*bodies)).chains()["s"]]


TAG = {"kind": "tag", "tag": "good", "target": 0}


def test_edits_are_active_in_ledger_order_until_reverted() -> None:
    entries = chain({"kind": "init"}, edit("b", "a"), {"kind": "measure"}, edit("c"), revert("b"), TAG)
    assert ids(entries[:4]) == {1: ["b", "a"], 3: ["c"]}
    assert ids(entries) == {1: ["a"], 3: ["c"]}
    fates = lives(entries)
    assert list(fates) == ["b", "a", "c"]
    assert [(f.seq, f.since, f.slot, f.request.subject, f.status) for f in fates.values()] == [
        (1, 4, "s-b", "b", "reverted"),
        (1, 1, "s-a", "a", "active"),
        (3, 3, "s-c", "c", "active"),
    ]
    assert [(c.seq, c.index, c.facts) for c in History.of(entries).columns] == [
        (1, 0, {"b"}),
        (1, 1, {"a"}),
        (3, 0, {"c"}),
    ]


def test_an_edit_without_an_active_fact_is_left_out() -> None:
    assert ids(chain(edit("a"), edit("b"), revert("a"))) == {1: ["b"]}


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), max_size=8), st.data())
def test_the_active_facts_are_those_written_less_those_reverted(sizes: list[int], data: st.DataObject) -> None:
    bodies, alive, written = [], [], 0
    for size in sizes:
        new = [str(written + i) for i in range(size)]
        written += size
        gone = data.draw(st.lists(st.sampled_from(alive), unique=True)) if alive else []
        alive = [id for id in alive if id not in gone] + new
        bodies += [revert(*gone), edit(*new)]
    entries = chain(*bodies)
    assert [id for facts in ids(entries).values() for id in facts] == alive
    assert len(lives(entries)) == written


@pytest.mark.parametrize(
    "last",
    [
        revert("x"),
        revert("gone"),
        revert("a", "a"),
        edit("a"),
        edit("n", "n"),
        {"kind": "edit"},
        {"kind": "edit", "facts": [{"id": "n"}]},
        {"kind": "edit", "facts": ["n"]},
        {"kind": "revert", "facts": [{"id": "a"}]},
        restore("a"),
        restore("x"),
        {**revert("a"), "restored": ["a"]},
    ],
)
def test_an_entry_that_makes_no_sense_is_named(last: dict[str, Any]) -> None:
    with pytest.raises(StoreCorrupt, match=r"entry 2 .* does not fit"):
        lives(chain(edit("a", "gone"), revert("gone"), last))


def test_a_superseded_fact_knows_by_whom_and_comes_back() -> None:
    bodies = [shared(["p1"], new=["p1"]), shared(["p2"], new=["p2"], superseded=["p1"])]
    assert [(f.status, f.since, f.by) for f in lives(chain(*bodies)).values()] == [
        ("superseded", 1, "p2"),
        ("active", 1, None),
    ]
    bodies.append({**revert("p2"), "restored": ["p1"]})
    assert [(f.status, f.by) for f in lives(chain(*bodies)).values()] == [("active", None), ("reverted", None)]
    bodies.append(restore("p2", superseded=["p1"]))
    assert [(f.status, f.by) for f in lives(chain(*bodies)).values()] == [("superseded", "p2"), ("active", None)]
    with pytest.raises(StoreCorrupt, match=r"entry 1 .* does not fit"):
        lives(chain(edit("a"), {**edit("b"), "superseded": ["a"]}))


def test_the_columns_of_a_slot_stand_up_to_the_one_of_just_its_active_facts() -> None:
    """Equal sets of active facts have equal chains, whatever happened in between."""
    a, b = shared(["a"], new=["a"]), shared(["a", "b"], new=["b"])
    without_a = {**revert("a"), "columns": [["b"]]}
    assert chain_of(a) == chain_of(a, b, revert("b")) == [0]
    assert chain_of(a, b) == chain_of(a, b, without_a, restore("a")) == [0, 1]
    assert chain_of(a, b, without_a) == chain_of(a, b, without_a, restore("a"), revert("a")) == [2]
    assert chain_of(a, b, revert("a")) == []  # nothing was optimised for b alone: a value must be written
    c = shared(["a", "c"], new=["c"])
    assert chain_of(a, b, revert("b"), c) == [0, 3]
    assert chain_of(a, b, revert("b"), c, {**restore("b"), "columns": [["a", "b", "c"]]}) == [0, 1, 3, 4]


def test_the_first_column_of_a_slot_stays_the_first() -> None:
    history = History.of(chain(shared(["a"], new=["a"]), shared(["a", "b"], new=["b"]), revert("a", "b")))
    assert history.first_columns() == {"s": Column(0, 0, "s", frozenset("a"))} and history.chains() == {}


@pytest.mark.parametrize("columns", [[["a"]], [["n", "m"]], [["x"]], ["n"], [[]]], ids=str)
def test_a_column_is_for_active_facts_of_one_slot(columns: list[Any]) -> None:
    last = {**edit("n", "m"), "columns": columns}
    with pytest.raises(StoreCorrupt, match=r"entry 2 .* does not fit"):
        lives(chain(edit("a"), revert("a"), last))


def test_a_history_goes_on_entry_by_entry() -> None:
    bodies = [shared(["a"], new=["a"]), shared(["a", "b"], new=["b"]), revert("b"), restore("b"), TAG]
    history = History.of([])
    for entry in chain(*bodies):
        history = history.then(entry.seq, entry.kind, entry.body)
    assert history == History.of(chain(*bodies))


def test_a_kind_of_a_newer_version_is_refused() -> None:
    with pytest.raises(StoreCorrupt, match="newer version"):
        lives(chain(edit("a"), {"kind": "transmute"}))


def test_conventions_of_the_fixtures_hold(
    edit_body: Callable[..., dict[str, Any]], revert_body: Callable[..., dict[str, Any]]
) -> None:
    entries = chain({**edit_body("a", "b"), "kind": "edit"}, {**revert_body("a"), "kind": "revert"})
    assert ids(entries) == {0: ["b"]}
