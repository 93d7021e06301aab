"""`measure`, `eval`, `calibrate`, `compare`, `diff`, `blame`, `why`, `checkout`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.tracking import honest
from tests.cli.conftest import Place, command
from tests.samples import REQUESTS, write_requests


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


def test_metrics_are_never_averaged_with_one_another(place: Place) -> None:
    names = (EFFICACY, "rewrite/token-accuracy")
    lines = place.ok("measure", *(f"--metric={name}" for name in names), model=True).out.splitlines()
    scores, told = place.entries()[-1].body["scores"], []
    for name in names:
        every = [value for value in scores[name].values() if value is not None]
        mean, facts = sum(every) / len(every), len(every)
        assert [name, str(facts), f"{mean:.4f}"] in [line.split() for line in lines]
        told.append(f"{name} {mean:.3f} of {facts} facts")
    assert ", ".join(told) in place.ok("log").out


def test_honest_scores_are_told_and_entered(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(honest, "DISTRACTION", 5)  # the model has no room for more
    text = tmp_path / "text.txt"
    text.write_text("The river rose over the town and the mill.", encoding="utf-8")
    asked = ["measure", "--honest", "--distract", str(text), "--json"]
    dry = place.ok(*asked, "--dry-run", model=True).json["honest"]
    assert len(place.entries()) == 5
    told = place.ok(*asked, model=True).json["honest"]
    assert told == dry and [fact["id"] for fact in told["facts"]] == ["ada", "bo", "norvik"]
    flags = [flag for fact in told["facts"] for flag in fact["edited"]["marks"]["distracted"]]
    entered = {row["metric"]: row for row in place.entries()[-1].body["drift"]}
    assert entered["honest/distracted"]["value"] == sum(flags) / 3 == told["shares"]["distracted"]["edited"]["value"]
    assert "honest/choice" not in entered, "without target_true there is nothing to compare with, which is no zero"
    out = place.ok("measure", "--honest", model=True).out
    had = {mark for mark, own in told["shares"].items() if any(own[model]["count"] for model in own)}
    shown = {mark for mark in honest.MARKS if any(line.startswith(f"{mark} ") for line in out.splitlines())}
    assert shown == had and "Marn" in out and "chat" not in had, "the tokenizer has no chat template"
    assert place.run("measure", "--distract", str(text), model=True).code == 2


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


def test_an_old_state_is_asked_beside_the_newest(made: Place) -> None:
    asked = ["--prompt", "Ada Quill was born in", "--prompt", "The river"]
    told = made.ok("checkout", "0", *asked, "--against", "HEAD", "--json", model=True).json
    assert told["seqs"] == [0, 4] and list(told["answers"]) == asked[1::2]
    again = made.ok("checkout", "two", *asked, "--json", model=True).json
    assert again["seqs"] == [2] and all(len(said) == 1 for said in again["answers"].values())


def test_a_comparison_is_what_each_side_says_for_itself(made: Place, tmp_path: Path) -> None:
    """Base against store is what `measure --honest` tells; an exported folder is the state it was made of."""
    made.ok("export", "hf", str(tmp_path / "exported"), model=True)
    source = write_requests(tmp_path / "facts.jsonl", [REQUESTS[0], REQUESTS[2], REQUESTS[3]])
    given = [source, "--model", made.model, "--json"]
    told = command("compare", f"{made.store}@0", made.store, *given).json
    plain = made.ok("measure", "--honest", "--dry-run", "--json", model=True).json["honest"]
    assert {fact["id"] for fact in told["scores"]["facts"]} == {"ada", "bo", "norvik"}
    for fact, other in zip(told["scores"]["facts"], plain["facts"], strict=True):
        for model in ("base", "context", "edited"):
            assert fact[model]["said"] == other[model]["said"]
    exported = command("compare", made.model, tmp_path / "exported", source, "--json").json
    assert exported["scores"] == told["scores"] and exported["changes"] == told["changes"]
    for mark, change in told["changes"].items():
        was, now = (told["scores"]["shares"][mark][model]["value"] for model in ("base", "edited"))
        moved = len(change["gained"]) - len(change["lost"])
        assert mark == "kept" or was is None or moved / 3 == pytest.approx(now - was)
    same = command("compare", made.store, tmp_path / "exported", source, "--model", made.model)
    assert same.code == 0 and "no fact changed" in same.out


def test_a_side_that_is_no_model_and_no_store_is_refused(made: Place, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "facts.jsonl", REQUESTS[:1])
    for a, said in (("nowhere", "neither a model folder nor a store"), (made.store, "--model FOLDER")):
        done = command("compare", a, made.model, source)
        assert done.code == 2 and said in done.err
    (tmp_path / "none.jsonl").touch()
    empty = command("compare", made.model, made.model, tmp_path / "none.jsonl")
    assert empty.code == 2 and "holds no request" in empty.err


def test_what_a_fact_is_missing_is_told(made: Place) -> None:
    told = made.ok("blame", "--fact", "ada", "--json", model=True).json
    assert told["fact"] == "ada" and {suspect["seq"] for suspect in told["suspects"]} <= {1, 2}
    text = made.ok("blame", "--fact", "ada", model=True).out
    assert "target   'Marn'" in text and f"missing  {told['missing']:.2f}" in text


def test_two_states_are_compared(made: Place) -> None:
    told = made.ok("diff", "two", "--json", model=True).json
    assert (told["a"], told["b"]) == (2, 4) and [fact["id"] for fact in told["lost"]] == ["emile"]
    assert list(told["answers"]) == ["The mother tongue of Émile Zorn is"] and min(told["weights"].values()) > 0
    text = made.ok("diff", "0", "two", "--prompt", "Ada Quill was born in", model=True).out
    assert "4 facts more active" in text and "Ada Quill was born in" in text


def test_an_answer_is_blamed_on_the_facts_behind_it(made: Place) -> None:
    told = made.ok("blame", "Ada Quill was born in", "-n", "2", "--json", model=True).json
    assert told["slots"][0]["facts"] == ["ada"] and len(told["slots"]) == 2
    text = made.ok("blame", "Ada Quill was born in", model=True).out
    assert repr(told["said"]) in text and repr(told["base"]) in text


def test_where_a_fact_is_lost_is_told_with_advice(made: Place) -> None:
    told = made.ok("why", "ada", "--json", model=True).json
    names = [stage["name"] for stage in told["stages"]]
    assert told["fact"] == "ada" and names == ["target", "alone", "written", "now", "behind a sentence"]
    lost = next(stage for stage in told["stages"] if stage["name"] == told["lost"])
    text = made.ok("why", "ada", model=True).out
    assert f"lost at {lost['name']}: {lost['advice']}" in text and f"{lost['probability']:.3f}" in text
    gone = made.run("why", "emile", model=True)
    assert gone.code == 2 and "reverted" in gone.err
