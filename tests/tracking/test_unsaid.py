"""What the ledger knows of facts that the model does not say."""

from __future__ import annotations

from typing import Any

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.store import Entry
from lifelong_edit.tracking.unsaid import answers, unsaid


def entry(seq: int, kind: str = "edit", scores: dict[str, float | None] | None = None, **body: Any) -> Entry:
    said = {} if scores is None else {"scores": {EFFICACY: scores, "paraphrase/argmax": dict.fromkeys(scores, 0.0)}}
    return Entry(seq, "d" * 64, "c" * 64, {"kind": kind, **said, **body})


def test_the_newest_word_on_a_fact_counts_whatever_entry_has_it() -> None:
    entries = [
        entry(1, scores={"a": 1.0, "b": 0.0, "c": 0.0}, failed=["b", "c"]),
        entry(2, "protect", failed=["kept"]),
        entry(3, scores={"d": 1.0}, cost=["a"]),
        entry(4, "measure", scores={"b": 1.0, "c": 0.5, "d": None}),
    ]
    active = ["a", "b", "c", "d", "kept", "never asked"]
    assert unsaid(entries, active) == {"a": 3, "c": 4, "kept": 2}
    assert unsaid(entries, ["b", "d"]) == unsaid([], active) == {}
    assert unsaid([*entries, entry(5, "relax", scores={"a": 1.0})], active) == {"c": 4, "kept": 2}


def test_entries_of_earlier_versions_tell_it_by_their_scores() -> None:
    assert answers(entry(1, scores={"a": 1.0, "b": 0.0})) == {"a": True, "b": False}
    assert answers(entry(1, "tag", tag="good")) == {}
