"""`import` says the format, writes what `apply` reads and tells every rejection; `wordings` drafts for review.

`plan` tells what would be written.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lifelong_edit.datasets.jsonl import open_source, read_requests
from lifelong_edit.facts import EditRequest
from tests.cli.conftest import Done, Place, command
from tests.datasets.specimens import SPECIMENS, ZSRE
from tests.samples import REQUESTS, write_requests

PLAIN = {"target_new": "Oran", "relation_id": "P551"}


def run(*arguments: object) -> Done:
    return command("import", *arguments)


@pytest.fixture
def zsre(tmp_path: Path) -> Path:
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps([ZSRE, {**ZSRE, "alt": ""}, {**ZSRE, "subject": "Bo"}]), encoding="utf-8")
    return path


def requests(path: Path) -> list[EditRequest]:
    with open_source(path) as stream:
        return [sourced.request for sourced in read_requests(stream, path.name)]


def test_edits_and_rejected_rows_are_written_and_told(zsre: Path, tmp_path: Path) -> None:
    out, rejected = tmp_path / "edits.jsonl", tmp_path / "rejected.jsonl"
    done = run(zsre, "--targets", "alt", "--out", out, "--rejected", rejected)
    assert (done.code, done.err) == (0, "")
    for told in (
        "targets alt",
        "3 rows: 1 edit accepted, 2 rejected",
        "no target_new",
        "not used: pred, cond",
        str(out),
    ):
        assert told in done.out
    (request,), (expected,) = requests(out), SPECIMENS["zsre alt"].requests
    assert request.to_dict() == {**expected.to_dict(), "id": request.id}
    rows = [json.loads(line) for line in rejected.read_text("utf-8").splitlines()]
    assert [(row["row"], row["reason"]) for row in rows] == [
        (2, "no target_new"),
        (3, "the subject is not in the prompt"),
    ]
    assert rows[0]["raw"] == {**ZSRE, "alt": ""} and "is missing or empty" in rows[0]["problem"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["edits.jsonl", "rejected.jsonl", "zsre.json"]


def test_a_dry_run_tells_the_same_and_writes_nothing(zsre: Path, tmp_path: Path) -> None:
    out = tmp_path / "edits.jsonl"
    dry = run(zsre, "--targets", "answers", "--out", out, "--rejected", out.with_name("r.jsonl"), "--dry-run", "--json")
    assert list(tmp_path.iterdir()) == [zsre]
    done = run(zsre, "--targets", "answers", "--out", out, "--json")
    assert dry.json == {**done.json, "out": None}
    assert done.json["rejected"] == sum(done.json["reasons"].values()) == 1
    assert (done.json["format"], done.json["rows"], done.json["accepted"]) == ("zsre", 3, len(requests(out)))


def test_the_row_behind_every_edit_can_be_kept(zsre: Path, tmp_path: Path) -> None:
    out, raw = tmp_path / "edits.jsonl", tmp_path / "raw.jsonl"
    assert run(zsre, "--targets", "answers", "--out", out, "--raw", raw).code == 0
    rows = [json.loads(line) for line in raw.read_text("utf-8").splitlines()]
    assert [row["line"] for row in rows] == [n for n, _ in enumerate(requests(out), start=1)]
    assert all(request.subject in json.dumps(row["raw"]) for row, request in zip(rows, requests(out), strict=True))
    assert [row["raw"] for row in rows] == [json.loads(zsre.read_text("utf-8"))[row["row"] - 1] for row in rows]
    assert run(zsre, "--targets", "answers", "--out", out, "--raw", out).code == 2


def test_only_so_many_edits_are_read(zsre: Path, tmp_path: Path) -> None:
    done = run(zsre, "--targets", "alt", "--out", tmp_path / "edits.jsonl", "--limit", "2", "--json")
    assert (done.json["accepted"], done.json["rejected"]) == (1, 1)


def test_what_cannot_be_done_is_a_usage_error_and_leaves_no_file(zsre: Path, tmp_path: Path) -> None:
    out = tmp_path / "edits.jsonl"
    for arguments, message in {
        ("--out", out): "Choose with --targets",
        ("--targets", "alt", "--out", tmp_path / "edits.txt"): "does not end with .jsonl",
        ("--targets", "alt", "--out", out, "--rejected", out): "cannot share a file",
        ("--format", "yago", "--out", out): "no format 'yago'",
    }.items():
        done = run(zsre, *arguments)
        assert done.code == 2 and message in done.err and list(tmp_path.iterdir()) == [zsre]
    zsre.write_text(json.dumps([ZSRE])[:-1], encoding="utf-8")
    assert run(zsre, "--targets", "alt", "--out", out).code == 2 and list(tmp_path.iterdir()) == [zsre]
    zsre.write_text(json.dumps([ZSRE]), encoding="utf-8")
    out.write_text("kept")
    done = run(zsre, "--targets", "alt", "--out", out)
    assert done.code == 2 and "not written over" in done.err and out.read_text() == "kept"
    assert run(zsre, "--targets", "alt", "--out", zsre / "edits.jsonl").code == 5  # a file is no folder


def test_edits_get_wordings_from_their_own_file_or_from_templates(tmp_path: Path) -> None:
    rows = [{**PLAIN, "subject": name, "prompt": f"{{}} {verb}"} for name, verb in (("Ada", "is at"), ("Bo", "is in"))]
    path, given = tmp_path / "rows.json", tmp_path / "templates.json"
    path.write_text(json.dumps([*rows, {**rows[0], "subject": "Eve", "relation_id": None}]), encoding="utf-8")
    given.write_text(json.dumps({"P551": ["{} dwells in"]}), encoding="utf-8")
    for name, arguments, wordings in (
        ("own", (), ["{} is in", "{} is at"]),
        ("given", ("--templates", given), ["{} dwells in"] * 2),
    ):
        out = tmp_path / f"{name}.jsonl"
        done = run(path, "--wordings", 2, *arguments, "--out", out)
        assert (done.code, done.err) == (0, "") and "wordings an edit: 1 for 2, 0 for 1" in done.out
        assert [request.wordings for request in requests(out)] == [(wordings[0],), (wordings[1],), ()]
        told = run(path, "--wordings", 2, *arguments, "--out", out, "--dry-run", "--json").json
        assert told["wordings"] == {"1": 2, "0": 1}
    assert "wordings an edit" not in run(path, "--dry-run").out
    without = run(path, "--templates", given, "--dry-run")
    assert without.code == 2 and "--wordings" in without.err


def test_a_plan_tells_everything_a_person_should_see(place: Place, tmp_path: Path) -> None:
    again = EditRequest("{} was born in", "Ada Quill", "Oran", id="second")
    source = write_requests(tmp_path / "some.jsonl", [again, REQUESTS[0], REQUESTS[4]])
    text = place.ok("plan", source, "--batch", "2", model=True).out
    assert "some.jsonl: 3 rows, 0 bad" in text and "2 facts would be written, by 2 commits; 1 known already" in text
    assert "would be superseded: 1\n  line 1: 'Oran' instead of 'Marn' of fact ada" in text
    assert "values to optimise; capacity of transformer.h.0.mlp.c_proj.weight" in text and "to optimise, by" in text
    with open(source, "a") as file:
        file.write("{}\n")
    done = place.run("plan", source, model=True)
    assert (
        done.code == 2
        and "some.jsonl:4: " in done.out
        and "some.jsonl cannot be applied: line 4. Mend or remove" in done.err
    )
    assert len(place.entries()) == 5


def test_drafted_wordings_are_printed_for_review_and_written_to_a_new_file(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}", encoding="utf-8")
    said = [" is a native of Marn.", " lives in a Marn house.", " home of Ada Quill is Marn.", " sun."]
    monkeypatch.setattr("lifelong_edit.engine.estimate.wordings.sampled", lambda *_given: said)
    source, out = Path(write_requests(tmp_path / "one.jsonl", REQUESTS[:1])), tmp_path / "worded.jsonl"
    given = ["wordings", source, "--with", model, "--out", out, "--draws", "4", "--count", "1"]
    dry = command(*given, "--dry-run", "--json")
    assert dry.code == 0 and not out.exists()
    done = command(*given)
    (worded,), (found,) = requests(out), dry.json["requests"]
    assert worded.wordings == ("{} is a native of",) and found["request"]["wordings"] == ["{} is a native of"]
    assert "4 sentences for 1 request, 1 wording given" in done.out and "+ {} is a native of" in done.out
    assert "the answer ends no clause" in done.out and "enough others go before it" in done.out
    before = out.read_bytes()
    for taken in (out, source):
        again = command("wordings", source, "--with", model, "--out", taken, "--draws", "4")
        assert again.code == 2 and "is there already" in again.err
    assert out.read_bytes() == before
    plain = command("wordings", source, "--with", model_folder, "--out", tmp_path / "other.jsonl")
    assert plain.code == 8 and "chat template" in plain.err and not (tmp_path / "other.jsonl").exists()
