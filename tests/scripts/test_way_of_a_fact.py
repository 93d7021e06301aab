"""The way of a fact is counted from the call to its return, in files and functions of the package alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import way_of_a_fact
from lifelong_edit.facts import EditRequest
from way_of_a_fact import LIMITS, Way

REQUEST = EditRequest("{} was born in", "Ada Quill", "Tarsis")


def test_functions_of_the_package_are_counted_and_no_others() -> None:
    way = Way.of(lambda: (REQUEST.canonical(), Path("a") / "b"))
    assert way.files == ["facts.py"] and ("facts.py", "canonical") in way.functions
    assert all(file == "facts.py" for file, _ in way.functions) and way.calls["requests made"] == 0
    assert Way.of(lambda: [EditRequest("{} lives in", "Bo", "Marn") for _ in range(3)]).calls["requests made"] == 3
    assert Way.of(lambda: None).files == [] and sys.getprofile() is None


@pytest.mark.parametrize(("over", "status"), [(0, 0), (1, 1)])
def test_the_exit_status_tells_of_too_long_a_way(over: int, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        verb: Way(frozenset((f"{number}.py", "f") for number in range(limit + over)), {})
        for verb, limit in LIMITS.items()
    }
    monkeypatch.setattr(way_of_a_fact, "ways", lambda *_: found)
    monkeypatch.setattr(sys, "argv", ["way_of_a_fact"])
    assert way_of_a_fact.main() == status
