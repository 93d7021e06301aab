"""`tune` from files to a profile that `init` takes, and what `init` says of profiles and of what the base knows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lifelong_edit.cli import tune
from lifelong_edit.facts import EditRequest
from lifelong_edit.tuning.exam import Figures
from lifelong_edit.tuning.tune import Found
from tests.cli.conftest import Done, Place, command
from tests.samples import REQUESTS, write_requests

NAMES = "Ada Quill,Bo Lund,Norvik,Ana María Díaz,Émile Zorn,Kessel,Oran,Marn".split(",")
FACTS = [EditRequest("{} lives in", name, "Tarsis", paraphrase_prompts=(f"The home of {name} is",)) for name in NAMES]
STATEMENTS = [f"Number {n} is near the river Ösel" for n in range(90)]
PARAGRAPHS = [
    " ".join(f"The founder number {n}{i} moved the old company to the river." for i in range(5)) for n in range(24)
]


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    """The options that name a user's files."""
    (tmp_path / "text.txt").write_text("\n\n".join(PARAGRAPHS), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("\n".join(STATEMENTS), encoding="utf-8")
    edits = write_requests(tmp_path / "edits.jsonl", FACTS)
    return ["--edits", edits, "--text", tmp_path / "text.txt", "--prompts", tmp_path / "prompts.txt"]


def tuned(model: Path, files: list[object], work: Path, *more: object) -> Done:
    return command("tune", model, *files, "--work", work, "--facts", 4, "--tokens", 300, "--minutes", 0, *more)


def test_it_says_what_chose_what_is_reported_and_what_came_of_it(
    model_folder: Path, files: list[object], tmp_path: Path
) -> None:
    done = tuned(model_folder, files, tmp_path / "work")
    assert done.code == 0, done
    assert "4 facts, 23 prompts and 3 passages choose; 4 facts, 22 prompts and 3 passages are reported" in done.out
    assert (
        "chosen    start" in done.out
        and "reported  start" in done.out
        and "by facts that nothing was chosen by" in done.out
    )
    again = tuned(model_folder, files, tmp_path / "work", "--json", "--picture", tmp_path / "front.html")
    assert (tmp_path / "front.html").read_text("utf-8").startswith("<!doctype html>")
    assert again.code == 0 and not again.json["found"]["finished"]
    assert len(again.json["trials"]) == 1 and again.json["trials"][0]["step"]["name"] == "start"
    assert len((tmp_path / "work" / "trials.jsonl").read_text("utf-8").splitlines()) <= 4


def test_the_profile_that_it_writes_is_what_init_takes(
    model_folder: Path, files: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def better(search: tune.Tuning) -> Found:  # type: ignore[name-defined]
        low, high = (Figures(1, 1, 1, 1, 1, said, 1.0) for said in (0.2, 0.8))
        best = replace(search.start, ridge=0.07)
        return Found(search.start, best, (low, high), (low, high), True)

    monkeypatch.setattr("lifelong_edit.tuning.tune.Tuning.found", better)
    out = tmp_path / "mine.json"
    for _ in range(2):  # an earlier profile gives way
        assert f"{out} written" in tuned(model_folder, files, tmp_path / "work", "--out", out).out
    assert json.loads(out.read_text("utf-8"))["about"]["depth"] == 2
    new = Place(tmp_path / "store", model_folder)
    told = new.ok("init", *map(str, files[2:]), "--profile", str(out), model=True).out
    assert "settings by the profile mine.json" in told and "the base says" in told
    body = new.entries()[0].body
    assert body["config"]["ridge"] == 0.07 and body["profile"]["name"] == "mine.json" and body["known"]["asked"] == 90
    for told in (new.ok("status").out, new.ok("show", "0").out):
        assert "mine.json" in told and "the base says" in told
    assert new.ok("status", "--json").json["known"] == body["known"]


def test_a_file_that_is_no_profile_is_not_written_over(
    model_folder: Path, files: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifelong_edit.tuning.tune.Found.holds", lambda _found, _weight: True)
    (tmp_path / "notes.txt").write_text("mine")
    done = tuned(model_folder, files, tmp_path / "work", "--out", tmp_path / "notes.txt")
    assert done.code == 2 and "notes.txt" in done.err and (tmp_path / "notes.txt").read_text() == "mine"


def test_bad_input_is_refused_before_anything_is_made(model_folder: Path, files: list[object], tmp_path: Path) -> None:
    few = write_requests(tmp_path / "few.jsonl", REQUESTS[:3])
    work = tmp_path / "work"
    for wrong in (["--edits", few], ["--text", tmp_path / "nothing.txt"], ["--profile", "nothing"]):
        done = tuned(model_folder, files, work, *wrong)
        assert done.code == 2 and done.err.startswith("error: ") and not work.exists(), done
    assert tuned(tmp_path / "no model", files, work).code != 0 and not work.exists()


def test_init_without_prompts_says_that_nothing_was_measured(made: Place, files: list[object], tmp_path: Path) -> None:
    new = Place(tmp_path / "store", made.model)
    told = new.ok("init", *map(str, files[2:4]), model=True).out
    assert "what the base knows is not measured: no --prompts" in told and "known" not in new.entries()[0].body
    assert "profile lifelong_edit.json" in told
    dry = Place(tmp_path / "other", made.model).ok("init", *map(str, files[2:4]), "--dry-run", model=True).out
    assert "by the profile lifelong_edit.json" in dry
