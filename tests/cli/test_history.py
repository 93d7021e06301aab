"""`log`, `show`, `status`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lifelong_edit.facts import EditRequest
from tests.cli.conftest import Place
from tests.samples import write_requests


def test_the_log_is_newest_first_with_who_when_why_and_tags(made: Place) -> None:
    text, entries = made.ok("log").out, made.entries()
    blocks = text.split("\n\nentry ")
    assert [int(re.findall(r"\d+", block)[0]) for block in blocks] == [4, 3, 2, 1, 0]
    assert all(entry.digest[:12] in text and entry.time in text for entry in entries)
    assert f"{entries[2].digest[:12]} edit (two)" in blocks[2] and "Actor:  ada" in blocks[2]
    assert "four facts" in blocks[2] and "0 of 2 facts said, not said: Bo Lund, Norvik" in blocks[2]
    assert "was wrong" in blocks[0] and "1 fact reverted: emile" in blocks[0]


def test_the_log_can_be_a_line_an_entry_and_cut(made: Place) -> None:
    lines = made.ok("log", "--oneline", "-n", "3").out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        [str(entry.seq), entry.digest[:12], entry.kind] for entry in made.entries()[:1:-1]
    ]


def test_the_log_as_json(made: Place) -> None:
    told = made.ok("log", "--json").json
    assert [entry["seq"] for entry in told] == [4, 3, 2, 1, 0]
    assert told[0]["facts"] == ["emile"] and told[2]["tags"] == ["two"] and told[2]["facts"] == ["bo", "norvik"]
    assert told[1]["reason"] == "a name" and told[1]["weights"] is None


def test_a_fact_is_shown_with_its_whole_life(made: Place) -> None:
    text = made.ok("show", "emil").out
    assert "'The mother tongue of Émile Zorn is' -> 'Veltish of the river Ösel'" in text
    assert "reverted since entry 4" in text
    told = made.ok("show", "emile", "--json").json
    assert [(e["seq"], e["kind"], e["became"]) for e in told["life"]] == [
        (0, "init", "not written"),
        (1, "edit", "active"),
        (4, "revert", "reverted"),
    ]
    assert told["value"] is None and told["fact"]["status"] == "reverted"
    active = made.ok("show", "ada", "--json").json
    assert active["life"][-1]["became"] == "active now"
    body = made.entries()[1].body
    assert active["value"] == {"seq": 1, "facts": ["ada"], "loss": body["loss"][0], "steps": body["steps"][0]}


def test_a_fact_is_shown_with_its_wordings(place: Place, tmp_path: Path) -> None:
    worded = EditRequest("{} lies in", "Tarsis", "Oran", id="tarsis", wordings=("{} is a town in", "See {}, near"))
    place.ok("apply", write_requests(tmp_path / "one.jsonl", [worded]), model=True)
    assert "wordings  '{} is a town in', 'See {}, near'" in place.ok("show", "tarsis").out
    assert place.ok("show", "tarsis", "--json").json["fact"]["request"] == worded.to_dict() | {
        "wordings": list(worded.wordings)
    }
    assert "wordings" not in place.ok("show", "ada").out


def test_what_the_model_did_not_say_is_told_without_it(made: Place) -> None:
    silent = made.ok("status", "--json").json["unsaid"]
    assert silent.keys() >= {"bo", "norvik"} and "emile" not in silent, "emile was reverted"
    text = made.ok("status", "--facts").out
    assert f"not said    {len(silent)} active facts: " in text and text.count("active, not said") == len(silent)
    assert made.ok("show", "bo", "--json").json["unsaid"] == silent["bo"]
    assert f"not said  when the model was last asked, at entry {silent['bo']}" in made.ok("show", "bo").out


def test_a_fact_is_shown_with_what_the_model_said(made: Place) -> None:
    from lifelong_edit.engine import Reader

    said = [event["says"] for event in made.ok("show", "emile", "--answers", "--json", model=True).json["life"]]
    with Reader.open(made.store, made.model, read_only=True) as reader:
        assert said == [reader.at(seq).answer("The mother tongue of Émile Zorn is") for seq in (0, 1, 4)]
    assert said[0] != said[1]
    assert made.run("show", "emile", "--answers").code == 2


@pytest.mark.parametrize("ref", ["2", "two", "digest"])
def test_an_entry_is_shown_by_seq_tag_or_digest(made: Place, ref: str) -> None:
    entry = made.entries()[2]
    told = made.ok("show", entry.digest[:9] if ref == "digest" else ref, "--json").json
    assert told == {"digest": entry.digest, "tags": ["two"], "body": entry.body}
    text = made.ok("show", ref if ref != "digest" else entry.digest).out
    assert entry.record is not None and entry.record in text and "'Bo" not in text and "Bo Lund" in text


def test_without_a_name_the_newest_entry_is_shown_and_a_wrong_one_is_refused(made: Place) -> None:
    assert made.ok("show").out.startswith("entry 4 ")
    done = made.run("show", "nobody")
    assert done.code == 2 and "'nobody' names no fact or entry" in done.err and done.out == ""


def test_the_status(made: Place) -> None:
    told, head = made.ok("status", "--json", "--facts").json, made.entries()[-1]
    assert told["head"]["digest"] == head.digest and told["facts"] == {"active": 3, "reverted": 1, "superseded": 0}
    assert told["tags"] == {"two": 2} and told["strays"] == {"files": 0, "bytes": 0}
    assert [fact["id"] for fact in told["list"]] == ["ada", "emile", "bo", "norvik"]
    text = made.ok("status", "--facts").out
    assert head.digest in text and "3 active, 1 reverted, 0 superseded" in text
    assert re.search(r"emile +1 +reverted +4 ", text)
