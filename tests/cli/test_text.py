"""What is printed: values on one line, entries and commits in words, nothing that steers a terminal, standard JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.cli.text import (
    TOP,
    commit_document,
    commit_line,
    commit_text,
    counted,
    facts_lines,
    json_line,
    jsonable,
    listed,
    number,
    print_result,
    printable,
    summary,
    table,
)
from lifelong_edit.engine import Commit
from lifelong_edit.engine.change.commit import BlastRadius, Shift
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import Entry, FactLife
from lifelong_edit.tracking.scores import Score

SAID, UNSAID = Score(math.log(2.0), 1.0), Score(math.log(8.0), 0.5)
REQUEST = {"prompt": "{} lives in", "subject": "Ada\u202e", "target_new": "Marn"}


@dataclass(frozen=True)
class Point:
    place: Path
    sizes: tuple[float, ...]


def test_what_would_steer_a_terminal_is_escaped() -> None:
    assert printable("Émile \x1b[31m\n\x9b\u202e") == "Émile \\x1b[31m\\n\\x9b\\u202e"
    assert printable(None) == ""


def test_a_number_that_rounds_to_zero_has_no_sign() -> None:
    for value in (-0.0, 1e-17, -1e-17, -4e-5):
        assert [number(value, spec) for spec in (".3f", ".1%")] == ["0.000", "0.0%"]
    assert [number(value, ".2f") for value in (-0.004, -0.006, 12.0, -10.0)] == ["0.00", "-0.01", "12.00", "-10.00"]
    assert [number(value, ".0e") for value in (-0.0, -1e-9)] == ["0e+00", "-1e-09"]


def test_json_has_objects_for_dataclasses_and_null_for_what_is_no_number() -> None:
    line = json_line({"point": Point(Path("a"), (1.5, math.inf, math.nan)), 3: ("Ö", None)})
    assert json.loads(line) == {"point": {"place": "a", "sizes": [1.5, None, None]}, "3": ["Ö", None]}
    assert "\n" not in line and "Ö" in line


def test_an_answer_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(False, {"a": 1}, "one")
    print_result(True, {"a": 1}, "one")
    text, _, document = capsys.readouterr().out.partition("\n")
    assert text == "one" and json.loads(document) == {"a": 1}


def test_a_table_writes_ids_that_look_like_numbers_as_they_are() -> None:
    assert table([["1e5", "007", None]], ["a", "b", "c"]).splitlines()[-1].split() == ["1e5", "007"]


def test_long_lists_say_how_many_more() -> None:
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more" and listed(["a", "b"], 2) == "a, b"
    assert [counted(n, "fact") for n in (0, 1, 2)] == ["0 facts", "1 fact", "2 facts"]


def fact(id: str) -> FactLife:
    return FactLife(id, 1, EditRequest.from_dict(REQUEST), "slot", "active", 1)


def entry(kind: str, **body: Any) -> Entry:
    return Entry(3, "d" * 64, "c" * 64, {"kind": kind, "time": "2026-01-01", **body})


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (entry("protect", facts=[{"id": "a", "request": REQUEST}]), "1 fact protected: Ada\\u202e"),
        (entry("restore", facts=["a", "b"], superseded=["c"]), "2 facts restored, 1 superseded: a, b"),
        (entry("revert", facts=[], restored=["a"], to=2), "1 restored, back to entry 2"),
        (entry("tag", tag="good", target=2), "good names entry 2"),
        (
            entry(
                "measure",
                retention=[
                    {"cohort": 1, "metric": "m", "value": 1.0, "facts": 3},
                    {"cohort": 2, "metric": "m", "value": 0.0, "facts": 1},
                    {"cohort": 3, "metric": "m", "value": None, "facts": 9},
                    {"cohort": 2, "metric": "other", "value": 0.5, "facts": 1},
                ],
            ),
            "m 0.750 of 4 facts, other 0.500 of 1 fact",
        ),
        (entry("measure", retention=[]), "no facts"),
        (
            entry("init", config={"layers": [1, 2], "memory": "joint", "targets": "base"}),
            "layers 1, 2, joint memory, base targets",
        ),
    ],
)
def test_an_entry_in_a_line(told: Entry, expected: str) -> None:
    assert summary(told) == expected


def test_many_facts_are_counted_and_the_first_shown() -> None:
    lines = facts_lines([fact(f"f{i}") for i in range(TOP + 2)], "written")
    assert lines[0] == "12 facts written" and lines[-1] == "  and 2 more" and len(lines) == TOP + 2
    assert lines[1] == r"  f0  'Ada\u202e lives in' -> 'Marn'" and facts_lines([], "written") == []


def test_the_blast_radius_shows_the_most_affected_and_all_that_is_lost() -> None:
    facts = {id: fact(id) for id in ["gone", *(f"f{i}" for i in range(TOP + 3))]}
    shifts = [Shift(f"f{i}", 1, 1.0 / (i + 1), SAID, SAID) for i in range(TOP + 1)]
    lost = Shift(f"f{TOP + 1}", 1, 0.01, SAID, UNSAID)
    radius = BlastRadius((*shifts, lost, Shift(f"f{TOP + 2}", 1, 0.001)), recomputed=(4, 7), saw=(9,))
    commit = Commit(entry("revert", facts=["gone"]), (fact("gone"),), radius=radius)
    lines = commit_text(commit, "revert", facts).splitlines()
    assert lines[0] == f"entry 3 {'d' * 12} revert" and lines[1] == "1 fact reverted"
    assert "Blast radius: 13 other active facts, 12 measured, 1 lost" in lines
    assert "  batches solved anew: entries 4, 7" in lines and "  optimised with it in place: entries 9" in lines
    rows = [line.split()[:6] for line in lines if line.startswith("f") and line[1].isdigit()]
    assert [row[0] for row in rows] == [*(f"f{i}" for i in range(TOP)), f"f{TOP + 1}"]
    assert rows[-1] == [f"f{TOP + 1}", "1", "1.00e-02", "0.500", "0.125", "lost"]
    document = jsonable(commit_document(commit))
    assert document["radius"]["lost"] == [f"f{TOP + 1}"] and document["radius"]["recomputed"] == [4, 7]
    assert document["radius"]["shifts"][-1]["before"] is None


def test_a_commit_in_a_line_tells_what_was_known_already() -> None:
    made = Commit(entry("edit", facts=[{"id": "a", "request": REQUEST}]), (fact("a"),), skipped=("b",))
    assert commit_line(made) == f"   3 {'d' * 12} 1 fact written: Ada\\u202e; 1 request known already"
    assert commit_line(Commit(None, skipped=("a", "b"))) == "nothing written: 2 requests known already"
