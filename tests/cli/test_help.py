"""Every command and every option is documented, with an example that parses."""

from __future__ import annotations

import inspect
import re
import shlex
from typing import Any

import pytest
import typer

from lifelong_edit import errors
from lifelong_edit.cli.main import EXIT_CODES, app
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.tracking.budget import Scope

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WRITE = "init apply stream replace protect revert restore measure calibrate relax repair".split()
VERBS = [
    *WRITE,
    *"stats tune plan wordings status log show diff compare blame why checkout tag verify eval".split(),
    *"report ui import export backup clone gc doctor demo".split(),
]
DRY = (*WRITE, "stats", "report", "export", "import", "wordings", "gc", "tag", "backup", "clone")
STORELESS = ("compare", "demo", "import", "stats", "tune", "wordings")


def named(command: Any) -> dict[str, Any]:
    return {option: parameter for parameter in command.params for option in parameter.opts}


def test_the_verbs_are_there() -> None:
    assert sorted(COMMANDS) == sorted(VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_a_command_says_what_it_does_and_shows_an_example_that_parses(name: str) -> None:
    command = COMMANDS[name]
    about, example = re.fullmatch(r"(.+)\n\nExample: lifelong-edit (.+)", command.help, re.S).groups()
    assert about and shlex.split(example)[0] == name
    required = [] if not getattr(named(command).get("--model"), "required", False) else ["--model", "folder"]
    command.make_context(name, [*required, *shlex.split(example)[1:]])


@pytest.mark.parametrize("name", VERBS)
def test_every_option_and_argument_is_told(name: str) -> None:
    assert [parameter.name for parameter in COMMANDS[name].params if not parameter.help] == []


@pytest.mark.parametrize("name", VERBS)
def test_the_options_that_all_share_are_called_alike(name: str) -> None:
    found = named(COMMANDS[name])
    assert "--json" in found and ("--store" in found) == (name not in STORELESS)
    assert name in STORELESS or found["--store"].envvar == "LIFELONG_EDIT_STORE"
    assert name == "demo" or "--model" not in found or {"--dtype", "--device"} <= set(found)
    assert ("--dry-run" in found) == (name in DRY)
    assert ("--actor" in found) == ("--reason" in found) == (name in (*WRITE, "tag"))


def test_every_exit_code_of_the_errors_is_told() -> None:
    codes = {kind.exit_code for _, kind in inspect.getmembers(errors, inspect.isclass)}
    assert {0, *codes, 130} <= {int(code) for code in re.findall(r"\d+", EXIT_CODES)}


def test_defaults_are_those_of_the_engine() -> None:
    for verb, method, names in (
        ("apply", LifelongEditor.apply, ["method"]),
        ("stream", LifelongEditor.stream, ["batch", "method"]),
        ("revert", LifelongEditor.revert, ["probe"]),
        ("relax", LifelongEditor.relax, ["halvings"]),
    ):
        defaults = {name: inspect.signature(method).parameters[name].default for name in names}
        assert {name: named(COMMANDS[verb])[f"--{name}"].default for name in names} == defaults
    for verb in ("measure", "eval"):
        told = {name: named(COMMANDS[verb])[f"--{name}"].default for name in ("newest", "oldest", "sample", "flagged")}
        assert Scope(**told) == Scope()
