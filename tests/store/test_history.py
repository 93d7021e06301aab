"""What is active follows from the entries alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.store import Entry, active, lives

TIME = {"time": "2026-01-01T00:00:00Z"}


def chain(*bodies: dict[str, Any]) -> list[Entry]:
    entries: list[Entry] = []
    for body in bodies:
        entries.append(Entry.after(entries[-1] if entries else None, {**TIME, **body}))
    return entries


def edit(*ids: str) -> dict[str, Any]:
    return {"kind": "edit", "facts": [{"id": id, "slot": f"s-{id}", "request": {"subject": id}} for id in ids]}


def revert(*ids: str) -> dict[str, Any]:
    return {"kind": "revert", "facts": list(ids)}


def ids(entries: list[Entry]) -> dict[int, list[str]]:
    return {seq: [fact.id for fact in facts] for seq, facts in active(entries).items()}


def test_edits_are_active_in_ledger_order_until_reverted() -> None:
    entries = chain({"kind": "init"}, edit("b", "a"), {"kind": "measure"}, edit("c"), revert("b"), {"kind": "tag"})
    assert ids(entries[:4]) == {1: ["b", "a"], 3: ["c"]}
    assert ids(entries) == {1: ["a"], 3: ["c"]}
    fates = lives(entries)
    assert list(fates) == ["b", "a", "c"]
    assert [(f.seq, f.column, f.slot, f.request["subject"], f.status) for f in fates.values()] == [
        (1, 0, "s-b", "b", "reverted"),
        (1, 1, "s-a", "a", "active"),
        (3, 0, "s-c", "c", "active"),
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
    ],
)
def test_an_entry_that_makes_no_sense_is_named(last: dict[str, Any]) -> None:
    with pytest.raises(StoreCorrupt, match=r"entry 2 .* does not fit"):
        lives(chain(edit("a", "gone"), revert("gone"), last))


def test_a_kind_of_a_newer_version_is_refused() -> None:
    with pytest.raises(StoreCorrupt, match="newer version"):
        active(chain(edit("a"), {"kind": "transmute"}))


def test_conventions_of_the_fixtures_hold(
    edit_body: Callable[..., dict[str, Any]], revert_body: Callable[..., dict[str, Any]]
) -> None:
    entries = chain({**edit_body("a", "b"), "kind": "edit"}, {**revert_body("a"), "kind": "revert"})
    assert ids(entries) == {0: ["b"]}
