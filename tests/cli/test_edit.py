"""`apply`, `stream`, `replace`, `protect`, `revert`, `restore`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifelong_edit.engine.change import commit as committing
from lifelong_edit.facts import EditRequest
from tests.cli.conftest import Place
from tests.obstacles import endless, in_memory_of
from tests.samples import REQUESTS, write_requests


def test_a_file_is_one_commit_and_applied_once(place: Place, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "two.jsonl", REQUESTS[4:])
    (commit,) = place.ok("apply", source, "--reason", "ticket 12", "--json", model=True).json
    entry = place.entries()[-1]
    assert commit["entry"]["digest"] == entry.digest and [fact["id"] for fact in commit["facts"]] == ["ana", "kessel"]
    assert entry.body["reason"] == "ticket 12"
    assert "nothing written: 2 requests known already" in place.ok("apply", source, model=True).out
    assert place.entries()[-1] == entry


def test_all_lines_are_read_before_anything_is_written(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "wrong.jsonl"
    source.write_text(json.dumps(REQUESTS[4].to_dict()) + "\n{}\n")
    done = place.run("apply", str(source), "--batch-size", "1", model=True)
    assert done.code == 2 and "wrong.jsonl:2" in done.err and len(place.entries()) == 5


def test_a_dry_run_checks_batch_after_batch_and_writes_nothing(place: Place, tmp_path: Path) -> None:
    first = EditRequest("{} was born in", "Ada Quill", "Oran", id="second")
    other = EditRequest("{} was born in", "Ada Quill", "Kessel", id="third")
    source = write_requests(tmp_path / "some.jsonl", [REQUESTS[0], first, REQUESTS[4], other])
    expected = [
        {"write": [], "skipped": ["ada"], "superseded": []},
        {"write": ["second", "ana"], "skipped": [], "superseded": ["ada"]},
        {"write": ["third"], "skipped": [], "superseded": ["second"]},
    ]
    commands = (["stream", source], ["apply", source, "--batch-size", "10"], ["plan", source, "--batch", "10"])
    for command in commands:
        dry = [] if command[0] == "plan" else ["--dry-run"]
        assert place.ok(*command, *dry, "--json", model=True).json["commits"] == expected
    assert "3 facts would be written, by 2 commits" in place.ok("stream", source, "--dry-run", model=True).out
    assert len(place.entries()) == 5
    assert place.run("apply", source, "--dry-run", model=True).code == 2  # two answers to one prompt in one batch
    assert place.run("apply", source, "--batch-size", "10", "--dry-run", "--method", "rome", model=True).code == 2


def test_a_stream_of_standard_input_tells_every_commit_as_a_line_and_goes_on(place: Place) -> None:
    lines = "".join(json.dumps(request.to_dict()) + "\n" for request in REQUESTS[3:])
    told = place.ok("stream", "-", "--batch", "2", "--json", model=True, stdin=lines).out.splitlines()
    commits = [json.loads(line) for line in told]
    assert [[fact["id"] for fact in commit["facts"]] for commit in commits] == [["ana"], ["kessel"]]
    assert [commit["skipped"] for commit in commits] == [["norvik"], []]
    again = place.ok("stream", "-", "--batch", "2", model=True, stdin=lines).out.splitlines()
    assert [line.split(":")[0] for line in again] == ["nothing written", "nothing written"]
    assert len(place.entries()) == 7


def test_a_line_without_an_end_is_refused_and_not_held(place: Place, tmp_path: Path) -> None:
    endless(tmp_path / "endless.jsonl", 1 << 28)
    with in_memory_of(1 << 27):
        done = place.run("stream", str(tmp_path / "endless.jsonl"), model=True)
    assert done.code == 2 and "the line has more than 65536 bytes" in done.err


def test_a_revert_is_predicted_then_done_and_measured(place: Place) -> None:
    preview = place.ok("revert", "ada", "--dry-run", "--json", model=True).json
    assert preview["entry"] is None and len(place.entries()) == 5
    assert [shift["before"] for shift in preview["radius"]["shifts"]] == [None, None]
    text = place.ok("revert", "ada", "--reason", "was wrong", model=True).out
    entry = place.entries()[-1]
    assert f"entry 5 {entry.digest[:12]} revert" in text and "'Ada Quill was born in' -> 'Marn'" in text
    assert "Blast radius: 2 other active facts, 2 measured" in text and entry.body["reason"] == "was wrong"
    done = place.ok("revert", "bo", "--json", "--probe", "1", model=True).json
    (shift,) = done["radius"]["shifts"]
    assert shift["fact"] == "norvik" and shift["predicted"] > 0 and shift["before"]["nll"] > 0 and shift["after"]
    said_before, said_after = (score["accuracy"] == 1.0 for score in (shift["before"], shift["after"]))
    assert done["radius"]["lost"] == (["norvik"] if said_before and not said_after else [])


def test_a_commit_is_reverted_and_a_state_is_gone_back_to(place: Place) -> None:
    entries = place.entries()
    done = place.ok("revert", "--commit", "two", "--json", model=True).json
    assert [fact["id"] for fact in done["facts"]] == ["bo", "norvik"]
    back = place.ok("revert", "--to", "two", "--json", model=True).json
    assert back["entry"]["weights"] == entries[2].weights and back["restored"] == ["emile", "bo", "norvik"]


def test_a_fact_is_restored(place: Place) -> None:
    told = place.ok("restore", "emil", "--dry-run", model=True)
    assert "1 fact restored" in told.out and len(place.entries()) == 5
    text = place.ok("restore", "emile", "--reason", "was right", model=True).out
    assert "1 fact restored" in text and "Blast radius: 3 other active facts" in text
    assert place.entries()[-1].weights == place.entries()[2].weights


@pytest.mark.parametrize(
    "command",
    [
        ["revert"],
        ["revert", "nobody"],
        ["revert", "ada", "--to", "two"],
        ["revert", "--to", "nowhere"],
        ["restore", "ada"],
        ["restore", "ada", "--dry-run"],
        ["diff", "0", "9"],
        ["blame", " "],
        ["checkout", "0", "--prompt", ""],
        ["apply", "no.jsonl"],
        ["apply", "no.txt"],
    ],
)
def test_what_makes_no_sense_is_refused_with_a_line(made: Place, command: list[str]) -> None:
    done = made.run(*command, model=True)
    assert done.code == 2 and done.out == "" and done.err.startswith("error: ")
    assert len(made.entries()) == 5


@pytest.mark.parametrize("every", ["0", "often", "9" * 5000])
def test_a_schedule_that_is_none_is_refused(made: Place, tmp_path: Path, every: str) -> None:
    requests = write_requests(tmp_path / "one.jsonl", REQUESTS[4:5])
    for verb in ("apply", "stream"):
        done = made.run(verb, requests, "--every", every, model=True)
        assert done.code == 2 and done.out == "" and "every is a number of edits" in done.err
    assert len(made.entries()) == 5


def test_what_becomes_of_facts_that_are_not_said_is_a_choice(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committing, "_failed", lambda _session, _change, facts, _body: tuple(f.id for f in facts[:1]))
    source = write_requests(tmp_path / "two.jsonl", REQUESTS[4:])
    stopped = place.run("stream", source, "--batch", "1", "--on-fail", "stop", model=True)
    assert stopped.code == 9 and "not said: Ana" in stopped.out and len(stopped.out.splitlines()) == 1
    assert stopped.err.startswith("error: 1 of 1 facts of entry 5 do not hold: ana.")
    told = place.ok("stream", source, "--batch", "1", "--on-fail", "revert", "--json", model=True).out.splitlines()
    assert [json.loads(line)["undone"] for line in told] == [None, {"seq": 7, "facts": ["kessel"]}]
    more = write_requests(tmp_path / "more.jsonl", [EditRequest("{} is", name, "Oran", id=name) for name in ("A", "B")])
    stopped = place.run("apply", more, "--batch-size", "1", "--on-fail", "stop", "--json", model=True)
    assert stopped.code == 9 and [commit["failed"] for commit in json.loads(stopped.out)] == [["A"]]
    assert "taken out again by entry 10: B" in place.ok("apply", more, "--on-fail", "revert", model=True).out
    assert "taken out again by entry 12" in place.ok("replace", "A", "Kessel", "--on-fail", "revert", model=True).out
    assert place.run("replace", "A", "Marn", "--on-fail", "stop", model=True).code == 9
    assert place.run("apply", more, "--on-fail", "halve", model=True).code == 2


def test_another_target_supersedes(place: Place) -> None:
    foretold = place.ok("replace", "ada", "Oran", "--dry-run", "--json", model=True).json
    assert [row["superseded"] for row in foretold["contradictions"]] == ["ada"] and len(place.entries()) == 5
    done = place.ok("replace", "ada", "Oran", "--reason", "moved", "--json", model=True).json
    assert done["superseded"] == ["ada"] and place.entries()[-1].body["reason"] == "moved"
    assert place.run("replace", "ada", "Kessel", "--dry-run", model=True).code == 2, "it is active no longer"


def test_facts_of_the_base_are_protected(place: Place, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "known.jsonl", [EditRequest("{} sings of", "The river", "Marn", id="kept")])
    assert place.ok("protect", source, "--dry-run", "--json", model=True).json["columns"] == 0
    assert len(place.entries()) == 5
    assert "1 fact protected" in place.ok("protect", source, model=True).out
    assert place.ok("status", "--json").json["protected"] == 1
