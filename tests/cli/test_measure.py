"""`measure`, `eval`, `relax`, `repair`, `replace`, `protect`, `checkout`, `blame --fact`, `stats`, `init --dry-run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifelong_edit.engine.measure.scores import EFFICACY
from lifelong_edit.facts import EditRequest
from tests.cli.conftest import Place, write_requests
from tests.samples import REQUESTS, TEXT


def test_a_measurement_is_entered_and_a_dry_one_is_not(place: Place) -> None:
    dry = place.ok("measure", "--dry-run", "--oldest", "2", "--json", model=True).json
    assert len(place.entries()) == 5
    told = place.ok("measure", "--oldest", "2", "--drift", "--reason", "weekly", "--json", model=True).json
    entry = place.entries()[-1]
    assert (entry.kind, entry.seq, entry.body["reason"]) == ("measure", 5, "weekly")
    assert told["retention"] == entry.body["retention"] and told["drift"] == entry.body["drift"] != []
    (scored,) = [row for row in dry["scores"] if row["group"] == "all asked"]
    every = [value for value in entry.body["scores"][EFFICACY].values() if value is not None]
    assert scored["facts"] == len(every) and scored["now"] == pytest.approx(sum(every) / len(every))
    assert f"entry 6: retention {sum(every) / len(every):.3f} of 3 facts" in place.ok("measure", model=True).out


def test_eval_scores_base_and_now_and_writes_nothing(made: Place) -> None:
    told = made.ok("eval", "--metric", EFFICACY, "--metric", "rewrite/prob", "--sample", "1", "--json", model=True)
    assert told.code == 0 and len(made.entries()) == 5
    groups = {(row["metric"], row["group"]): row for row in told.json["scores"]}
    assert groups[EFFICACY, "sample"]["facts"] == 1 and groups[EFFICACY, "newest"]["facts"] == 2
    likely = groups["rewrite/prob", "all asked"]
    assert likely["now"] is None, "without target_true there is nothing to compare with, which is no zero"
    assert made.run("eval", "--metric", "nonsense", model=True).code == 2
    assert made.run("eval", "--task", "some", model=True).code == 2


def test_the_noise_of_harmless_edits_is_entered(place: Place, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "harmless.jsonl", REQUESTS[4:])
    dry = place.ok("calibrate", source, "--dry-run", "--json", model=True).json
    assert dry["noise"]["norm"] > 0 and len(place.entries()) == 5
    told = place.ok("calibrate", source, "--json", model=True).json
    assert told["noise"] == place.entries()[-1].body["noise"] == dry["noise"]
    assert place.ok("status", "--json").json["facts"]["active"] == 3


def test_a_refit_is_foretold_and_refused_where_it_has_no_place(place: Place) -> None:
    dry = place.ok("relax", "--dry-run", "--json", model=True).json
    assert dry["entry"] is None and len(place.entries()) == 5
    done = place.ok("relax", "--json", model=True).json
    assert [fact["id"] for fact in done["facts"]] == [fact["id"] for fact in dry["facts"]]
    assert place.run("repair", model=True).code == 2, "a store in joint memory is solved together already"


def test_another_target_supersedes(place: Place) -> None:
    foretold = place.ok("replace", "ada", "Oran", "--dry-run", "--json", model=True).json
    assert [row["superseded"] for row in foretold["contradictions"]] == ["ada"] and len(place.entries()) == 5
    done = place.ok("replace", "ada", "Oran", "--reason", "moved", "--json", model=True).json
    assert done["superseded"] == ["ada"] and place.entries()[-1].body["reason"] == "moved"
    assert place.run("replace", "ada", "Kessel", "--dry-run", model=True).code == 2, "it is active no longer"


def test_facts_of_the_base_are_protected(place: Place, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "known.jsonl", [EditRequest("{} sings of", "The river", "Marn", id="kept")])
    assert place.ok("protect", source, "--dry-run", "--json", model=True).json["columns"] == 1
    assert len(place.entries()) == 5
    assert "1 fact protected" in place.ok("protect", source, model=True).out
    assert place.ok("status", "--json").json["protected"] == 1


def test_an_old_state_is_asked_beside_the_newest(made: Place) -> None:
    asked = ["--prompt", "Ada Quill was born in", "--prompt", "The river"]
    told = made.ok("checkout", "0", *asked, "--against", "HEAD", "--json", model=True).json
    assert told["seqs"] == [0, 4] and list(told["answers"]) == asked[1::2]
    again = made.ok("checkout", "two", *asked, "--json", model=True).json
    assert again["seqs"] == [2] and all(len(said) == 1 for said in again["answers"].values())


def test_what_a_fact_is_missing_is_told(made: Place) -> None:
    told = made.ok("blame", "--fact", "ada", "--json", model=True).json
    assert told["fact"] == "ada" and {suspect["seq"] for suspect in told["suspects"]} <= {1, 2}
    text = made.ok("blame", "--fact", "ada", model=True).out
    assert "target   'Marn'" in text and f"missing  {told['missing']:.2f}" in text


def test_second_moments_are_collected_shown_and_found_by_init(made: Place, tmp_path: Path) -> None:
    source, folder = tmp_path / "text.txt", tmp_path / "moments"
    source.write_text("\n\n".join(TEXT), encoding="utf-8")
    bare = Place(tmp_path / "unused", made.model)

    def stats(*arguments: str) -> str:
        from typer.testing import CliRunner

        from lifelong_edit.cli.main import app

        done = CliRunner().invoke(app, ["stats", "--model", str(bare.model), "--to", str(folder), *arguments])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    assert "has no second moments" in stats()
    dry = json.loads(stats("--text", str(source), "--layer", "0", "--dry-run", "--json"))
    assert dry["dry_run"] is True and not folder.exists()
    (path,) = json.loads(stats("--text", str(source), "--layer", "0", "--json"))["files"]
    (shown,) = json.loads(stats("--json"))
    assert shown["file"] == path and shown["layer"] == 0 and shown["fits"] and shown["tokens"] > 0


def test_an_init_is_foretold(made: Place, tmp_path: Path) -> None:
    text, watch = tmp_path / "text.txt", tmp_path / "watch.json"
    text.write_text("\n\n".join(TEXT), encoding="utf-8")
    watch.write_text(json.dumps({"texts": list(TEXT[:2])}), encoding="utf-8")
    new = Place(tmp_path / "store", made.model)
    arguments = ["init", "--text", str(text), "--layer", "0", "--watch", str(watch)]
    told = new.ok(*arguments, "--dry-run", "--json", model=True).json
    assert told["config"]["layers"] == [0] and told["watched"] == 0 and not new.store.exists()
    new.ok(*arguments, model=True)
    assert new.entries()[0].body["config"] == told["config"]
    watch.write_text("[]", encoding="utf-8")
    assert new.run(*arguments, model=True).code == 2
