"""What is printed: one line a value, nothing that steers a terminal, JSON that every reader takes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from lifelong_edit.cli.output import counted, json_line, listed, printable, table, tell


@dataclass(frozen=True)
class Point:
    place: Path
    sizes: tuple[float, ...]


def test_what_would_steer_a_terminal_is_escaped() -> None:
    assert printable("Émile \x1b[31m\n\x9b\u202e") == "Émile \\x1b[31m\\n\\x9b\\u202e"
    assert printable(None) == ""


def test_json_has_objects_for_dataclasses_and_null_for_what_is_no_number() -> None:
    line = json_line({"point": Point(Path("a"), (1.5, math.inf, math.nan)), 3: ("Ö", None)})
    assert json.loads(line) == {"point": {"place": "a", "sizes": [1.5, None, None]}, "3": ["Ö", None]}
    assert "\n" not in line and "Ö" in line


def test_an_answer_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    tell(False, {"a": 1}, "one")
    tell(True, {"a": 1}, "one")
    text, _, document = capsys.readouterr().out.partition("\n")
    assert text == "one" and json.loads(document) == {"a": 1}


def test_a_table_writes_ids_that_look_like_numbers_as_they_are() -> None:
    assert table([["1e5", "007", None]], ["a", "b", "c"]).splitlines()[-1].split() == ["1e5", "007"]


def test_long_lists_say_how_many_more() -> None:
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more" and listed(["a", "b"], 2) == "a, b"
    assert [counted(n, "fact") for n in (0, 1, 2)] == ["0 facts", "1 fact", "2 facts"]
