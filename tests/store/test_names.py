"""What names stand for, and never a guess."""

from __future__ import annotations

import pytest

from lifelong_edit.errors import RequestError
from lifelong_edit.store import Entry, FactLife
from lifelong_edit.store.history import check_tag, entry_named, fact_named, find_fact, tags_of


def facts(*ids: str) -> dict[str, FactLife]:
    return {id: FactLife(id, 1, {}, "slot") for id in ids}


def test_a_fact_is_known_by_its_id_or_a_unique_beginning_of_it() -> None:
    known = facts("abcd1", "abcd2", "abcd", "xyz")
    for name in ("abcd1", "abcd", "xyz"):
        found = find_fact(known, name)
        assert found is not None and found == fact_named(known, name)
    assert find_fact(known, "xy") is None and find_fact(known, "nobody") is None
    with pytest.raises(RequestError, match="2 facts"):
        find_fact(facts("abcd1", "abcd2"), "abcd")
    with pytest.raises(RequestError, match="unknown"):
        fact_named(known, "xy")


@pytest.fixture
def entries() -> list[Entry]:
    """Five entries, the last a tag for seq 2."""
    made: list[Entry] = []
    kinds: list[dict[str, object]] = [{"kind": "init"}, *[{"kind": "edit", "facts": []}] * 3]
    for body in [*kinds, {"kind": "tag", "tag": "two", "target": 2}]:
        made.append(Entry.after(made[-1] if made else None, {"time": "2026-01-01T00:00:00Z", **body}))
    return made


def test_an_entry_is_known_by_seq_tag_or_digest(entries: list[Entry]) -> None:
    for entry in entries:
        for ref in (str(entry.seq), entry.digest, entry.digest[:12]):
            assert entry_named(entries, ref) == entry
    assert entry_named(entries, "two").seq == 2
    assert tags_of(entries) == {2: ["two"]}


@pytest.mark.parametrize("ref", ["5", "-1", "99999999999", "nobody", "", "²", "abc"])
def test_what_names_no_entry_is_refused(entries: list[Entry], ref: str) -> None:
    with pytest.raises(RequestError, match="no entry"):
        entry_named(entries, ref)


@pytest.mark.parametrize("name", ["two", "12", "abc", " ", "a\nb"])
def test_a_tag_is_refused_that_is_taken_or_means_something_else(entries: list[Entry], name: str) -> None:
    with pytest.raises(RequestError):
        check_tag(entries, name)
    check_tag(entries, "three")
