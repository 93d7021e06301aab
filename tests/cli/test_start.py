"""`init` and `stats`: what a store starts from."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Place, command
from tests.samples import TEXT


def test_a_store_is_pinned_to_what_was_chosen(made: Place) -> None:
    body = made.entries()[0].body
    assert body["config"]["layers"] == [0] and body["config"]["contexts"] == 1 and body["config"]["seed"] == 0
    assert body["reason"] == "for the tests"


def test_init_needs_second_moments_and_refuses_a_wrong_choice(made: Place, tmp_path: Path) -> None:
    new = Place(tmp_path / "store", made.model)
    done = new.run("init", "--layer", "0", model=True)
    assert done.code == 2 and done.err.startswith("error: ")
    assert new.run("init", "--memory", "most", model=True).code == 2
    assert made.run("init", model=True).code != 0 and len(made.entries()) == 5


def test_second_moments_are_collected_shown_and_found_by_init(made: Place, tmp_path: Path) -> None:
    source, folder = tmp_path / "text.txt", tmp_path / "moments"
    source.write_text("\n\n".join(TEXT), encoding="utf-8")

    def stats(*arguments: str) -> str:
        done = command("stats", "--model", made.model, "--to", folder, *arguments)
        assert done.code == 0, done.err
        return done.out

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


def test_prompts_of_a_file_are_mixed_in_by_their_share(made: Place, tmp_path: Path) -> None:
    text, prompts = tmp_path / "text.txt", tmp_path / "prompts.txt"
    text.write_text("\n\n".join(TEXT), encoding="utf-8")
    prompts.write_text("Ada Quill was born in Marn.\n\nBo Lund lives in Kessel.\n", encoding="utf-8")
    new = Place(tmp_path / "store", made.model)
    arguments = ["init", "--text", str(text), "--layer", "0", "--prompts", str(prompts), "--prompt-share", "0.25"]
    assert "0.25 of C from 2 prompts" in new.ok(*arguments, "--dry-run", model=True).out and not new.store.exists()
    new.ok(*arguments, model=True)
    body = new.entries()[0].body
    assert body["prompts"]["count"] == 2 and body["config"]["prompt_share"] == 0.25
    prompts.write_text("\n \n", encoding="utf-8")
    done = Place(tmp_path / "other", made.model).run(*arguments, model=True)
    assert done.code == 2 and "one a line" in done.err and not (tmp_path / "other").exists()
