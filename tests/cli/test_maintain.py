"""`relax`, `repair`, `tag`, `verify`, `backup`, `clone`, `gc`, `doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifelong_edit.store import StoreLayout, WriterLock
from tests.cli.conftest import Place


def test_an_entry_gets_a_name_once(place: Place) -> None:
    told = place.ok("tag", "first", "1", "--actor", "bo", "--json").json
    entry = place.entries()[-1]
    assert told["digest"] == entry.digest and entry.body["target"] == 1 and entry.body["actor"] == "bo"
    assert place.ok("tag", "last", "--dry-run").out == "last would name entry 5. Nothing is written.\n"
    assert place.ok("tag", "last").out == "entry 6: last names entry 5\n"
    assert place.ok("tag", "--json").json == {"two": 2, "first": 1, "last": 5}
    assert place.run("tag", "first").code == 2 and len(place.entries()) == 7
    assert place.ok("verify", "--replay", "--json", model=True).json["sound"] is True


def test_a_sound_store_is_told_with_figures(made: Place) -> None:
    head = made.entries()[-1].digest
    told = made.ok("verify", "--head", head, "--replay", "--keys", "--json", model=True).json
    assert told["sound"] is True and told["head"] == head and told["weights"]["rebuilt"] == 3
    assert {check["name"]: check["examined"] for check in told["checks"]}["chain"] == 5
    assert max(told["weights"]["key_drift"].values()) < 1e-5 and told["weights"]["largest_difference"] < 1e-6
    text = made.ok("verify", "--replay", "--keys", model=True).out
    assert "3 states rebuilt" in text and "drifted by" in text and f"0 problems; head {head}" in text
    assert made.ok("verify", "--json").json["weights"] is None


@pytest.mark.parametrize("replay", [False, True])
def test_damage_is_listed_and_ends_with_its_code(place: Place, replay: bool) -> None:
    record = place.entries()[1].record
    path = StoreLayout(place.store).objects / str(record)[:2] / f"{record}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = place.run("verify", "--json", *(["--replay"] if replay else []), model=replay)
    assert done.code == 4 and done.json["sound"] is False and str(record) in done.err
    assert [problem for problem in done.json["problems"] if str(record) in problem]
    assert "1" in place.run("verify").out.split("records")[1].split("\n")[0]


def test_a_head_that_is_gone_is_found(made: Place) -> None:
    assert made.run("verify", "--head", "a" * 64).code == 4
    shown = [line.split()[1] for line in made.ok("log", "--oneline").out.splitlines()]
    assert len(shown) == 5 and all(made.ok("verify", "--head", digest).out for digest in shown)
    refused = made.run("verify", "--head", "the newest")
    assert refused.code == 2 and "is not a digest" in refused.err
    assert made.run("verify", "--replay").code == 2


def test_copies_are_stores_with_the_same_history(made: Place, tmp_path: Path) -> None:
    foretold = made.ok("backup", str(tmp_path / "backup"), "--dry-run", "--json").json
    assert not (tmp_path / "backup").exists()
    first = made.ok("backup", str(tmp_path / "backup"), "--json").json
    assert {**foretold, "dry_run": False} == first
    again = made.ok("backup", str(tmp_path / "backup"), "--json").json
    assert first["objects"] == 4 and again["objects"] == 0 and again["entries"] == 5
    assert made.entries()[-1].digest in made.ok("clone", str(tmp_path / "clone")).out
    for copy in ("backup", "clone"):
        assert Place(tmp_path / copy, made.model).entries() == made.entries()
    assert made.run("clone", str(tmp_path / "clone")).code == 5


def test_garbage_is_listed_then_removed(place: Place) -> None:
    stray = StoreLayout(place.store).objects / "ab" / f"{'ab' * 32}.safetensors"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"left")
    told = place.ok("gc", "--dry-run", "--json").json
    assert told == {"dry_run": True, "files": [{"path": str(stray), "size": 4}], "bytes": 4} and stray.exists()
    assert "1 file; gc removes them" in place.ok("status").out
    assert "1 file of 4 bytes removed" in place.ok("gc").out and not stray.exists()
    assert place.ok("gc", "--cache", "--json").json["files"] and not list(StoreLayout(place.store).cache.iterdir())


def test_the_doctor_looks_at_the_store_and_at_the_model(made: Place) -> None:
    without = {finding["about"] for finding in made.ok("doctor", "--json").json}
    with_model = {finding["about"] for finding in made.ok("doctor", "--json", model=True).json}
    assert with_model - without == {"base model"} and "disk" in without
    assert "base model" in made.ok("doctor", model=True).out


def test_a_busy_store_and_another_model_have_codes_of_their_own(place: Place, tmp_path: Path) -> None:
    with WriterLock(StoreLayout(place.store).lock):
        done = place.run("tag", "late")
        assert done.code == 6 and "is writing to the store" in done.err
    assert Place(place.store, tmp_path).run("doctor", model=True).code == 8
    assert Place(tmp_path / "none", place.model).run("log").code == 5


def test_a_refit_is_foretold_and_refused_where_it_has_no_place(place: Place) -> None:
    dry = place.ok("relax", "--dry-run", "--json", model=True).json
    assert dry["entry"] is None and len(place.entries()) == 5
    done = place.ok("relax", "--json", model=True).json
    assert [fact["id"] for fact in done["facts"]] == [fact["id"] for fact in dry["facts"]]
    assert place.run("repair", model=True).code == 2, "a store in joint memory is solved together already"
