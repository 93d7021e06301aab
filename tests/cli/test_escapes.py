"""Whatever users write into actor, reason, ids and requests: nothing that people read of it steers their screen."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong_edit.datasets.jsonl import read_requests
from lifelong_edit.escapes import printable, printable_json, printable_lines
from lifelong_edit.facts import EditRequest
from tests.cli.conftest import Place
from tests.samples import write_requests

BIDI = "\u202eevil\u2066\u200f\u2028"  # a request may hold these, and no control characters
STEERING = f"\x1b[2J\x9b31m\r\n{BIDI}"
HOSTILE = EditRequest(f"{{}} {BIDI}was born in", f"Ada{BIDI} Quill", f"Oran{BIDI}", id="\u202ed\u2067x")
COMMANDS = [
    "log",
    "log --oneline",
    "log --json",
    "status --facts",
    "status --facts --json",
    "show 5",
    "show \u202ed",
    "show \u202ed --json",
    "show \u202ed --answers",
    "verify",
    "diff 4 5",
    "diff 4 5 --json",
    "blame \u202eAda",
    "blame \u202eAda --json",
    "checkout 5 --prompt \u202eAda",
    "checkout 5 --prompt \u202eAda --json",
    "revert \u202ed --dry-run",
    "revert \u202ed --dry-run --json",
    "replace \u202ed \u202eTarsis --dry-run",
    "replace \u202ed \u202eTarsis --dry-run --json",
    "tag \u202ename",
    "show \u202enobody",
    "blame \u202enobody --fact",
    "export jsonl \u202ename --dry-run",
]
NO_MODEL = ("log", "status", "verify", "tag")


@pytest.fixture(scope="module")
def hostile(model_folder: Path, made: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Do not change it: the made store with an entry 5 that was written to steer a screen."""
    folder = tmp_path_factory.mktemp("hostile")
    made.ok("clone", str(folder / "store"))
    place = Place(folder / "store", model_folder)
    source = write_requests(folder / "hostile.jsonl", [HOSTILE])
    place.ok("apply", source, "--actor", STEERING, "--reason", STEERING, model=True)
    return place


def steering(text: str) -> str:
    """The characters of a text that are not seen as themselves."""
    return "".join(c for c in text if not c.isprintable() and c != "\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_prints_is_seen_as_it_is(hostile: Place, command: str) -> None:
    done = hostile.run(*command.split(" "), model=not command.startswith(NO_MODEL))
    assert done.out + done.err and ascii(steering(done.out + done.err)) == "''"
    assert "\\u202e" in done.out + done.err or command == "verify"


def test_json_says_what_was_written(hostile: Place) -> None:
    (newest, *_) = hostile.ok("log", "--json").json
    assert (newest["actor"], newest["reason"]) == (STEERING, STEERING) and newest["facts"] == [HOSTILE.id]


@pytest.mark.parametrize("form", ["hf", "peft"])
def test_the_card_and_the_requests_of_an_export_are_seen_as_they_are(hostile: Place, form: str, tmp_path: Path) -> None:
    hostile.ok("export", form, str(tmp_path / "out"), model=True)
    card, edits = ((tmp_path / "out" / name).read_text("utf-8") for name in ("README.md", "edits.jsonl"))
    assert steering(card + edits) == "" and "\\\\x1b" in card and "\\\\u202e" in card
    requests = [sourced.request for sourced in read_requests(edits.encode().splitlines(True), "edits.jsonl")]
    assert HOSTILE.to_dict() in [request.to_dict() for request in requests]


def test_an_exported_ledger_is_a_line_an_entry(hostile: Place, tmp_path: Path) -> None:
    hostile.ok("export", "jsonl", str(tmp_path / "out"))
    text = (tmp_path / "out").read_text("utf-8")
    bodies = [json.loads(line)["body"] for line in text.splitlines()]
    assert steering(text) == "" and bodies == [entry.body for entry in hostile.entries()]


def test_a_report_is_seen_as_it_is(hostile: Place, tmp_path: Path) -> None:
    hostile.ok("report", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text("utf-8")
    _plotly, own = page.split("</script>", 1)
    assert steering(own) == "" and "\\x1b[2J" in own and "\\u202e" in own


def test_the_database_to_browse_is_read_as_it_is_and_searched_as_it_was_written(hostile: Place, tmp_path: Path) -> None:
    hostile.ok("ui", "--to", str(tmp_path / "kept.db"))
    with closing(sqlite3.connect(tmp_path / "kept.db")) as db:
        read = db.execute("SELECT actor, entries.reason, question FROM facts JOIN entries USING (seq)").fetchall()
        assert read and all(steering(text or "") == "" for row in read for text in row)
        (request,) = db.execute("SELECT subject, target_new FROM facts WHERE id = ?", [HOSTILE.id]).fetchall()
    assert request == (HOSTILE.subject, HOSTILE.target_new)


@given(st.text())
def test_escapes_leave_what_is_seen_and_lose_nothing(text: str) -> None:
    assert printable(text).isprintable() and (printable(text) == text) == text.isprintable()
    assert steering(printable_lines(text)) == "" and printable_lines(text).count("\n") == text.count("\n")
    document = json.dumps({"text": [text]}, ensure_ascii=False, indent=2)
    assert steering(printable_json(document)) == "" and json.loads(printable_json(document)) == {"text": [text]}
