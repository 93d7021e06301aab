"""A small saved model, a store that the command line made for it, and a way to run commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lifelong_edit.cli.main import app
from lifelong_edit.editing.profile import PROFILE
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.store import Entry, Store
from tests.samples import REQUESTS, TEXT, lively_editable, write_requests


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def command(*arguments: object, stdin: str | None = None) -> Done:
    """A command in this process; an exception that it does not end with a code for is raised."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


@dataclass(frozen=True)
class Place:
    """A store in a folder of its own, and its model."""

    store: Path
    model: Path

    def run(self, *arguments: str, model: bool = False, stdin: str | None = None) -> Done:
        """A command on this store, in this process; with `model`, it is given the model."""
        given = ["--store", str(self.store), *(["--model", str(self.model)] if model else [])]
        return command(*arguments, *given, stdin=stdin)

    def ok(self, *arguments: str, model: bool = False, stdin: str | None = None) -> Done:
        """A command that must succeed and say nothing on standard error."""
        done = self.run(*arguments, model=model, stdin=stdin)
        assert (done.code, done.err) == (0, ""), done
        return done

    def entries(self) -> list[Entry]:
        with Store.open(self.store, read_only=True) as store:
            return store.ledger.entries()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a profile: targets of one layer, large enough to change what random weights say."""
    folder = tmp_path_factory.mktemp("model")
    editable = lively_editable("gpt2")
    editable.model.save_pretrained(folder)
    editable.tokenizer.save_pretrained(folder)
    (folder / PROFILE).write_text(json.dumps({"target": asdict(TargetSettings())}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def made(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Do not change it. Entries: init, edit (ada, emile), edit (bo, norvik), tag "two", revert (emile)."""
    folder = tmp_path_factory.mktemp("made")
    place = Place(folder / "store", model_folder)
    text = folder / "text.txt"
    text.write_text("\n\n".join(TEXT), encoding="utf-8")
    place.ok("init", "--text", str(text), "--layer", "0", "--contexts", "1", "--reason", "for the tests", model=True)
    requests = write_requests(folder / "four.jsonl", REQUESTS[:4])
    place.ok("apply", requests, "--batch-size", "2", "--actor", "ada", "--reason", "four facts", model=True)
    place.ok("tag", "two", "--reason", "a name")
    place.ok("revert", "emile", "--reason", "was wrong", model=True)
    return place


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    """A copy of the made store, to be changed."""
    return Place(shutil.copytree(made.store, tmp_path / "store"), made.model)
