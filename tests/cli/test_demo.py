"""What the demo promises: the figures of its stream, and that the command runs and tells it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lifelong_edit.cli.demo import HEADERS
from tests.cli.conftest import command

MODEL = Path(__file__).parents[2] / "checkpoints" / "tiny-world"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the short demo says; its stream has 60 edits, the whole one's 300."""
    done = command("demo", "--quick", "--stores", tmp_path_factory.mktemp("demo"), "--model", MODEL)
    assert done.code == 0, done.err
    return done.out


def figures(said: str, way: str, facts: str) -> dict[str, float]:
    """A row of the table of scores."""
    found = re.search(rf"^{way} +{facts} +(\d.*)$", said, flags=re.M)
    assert found, (way, facts)
    return dict(zip(HEADERS, map(float, found[1].split()), strict=False))


def test_old_and_new_edits_hold_and_carry_over_to_paraphrases(said: str) -> None:
    every, oldest = (figures(said, "joint, base", facts) for facts in ("all", "oldest 30"))
    assert every["EA"] >= 0.97 and oldest["EA"] >= 0.97
    assert every["PA"] >= 0.9


def test_what_nobody_edited_is_still_known(said: str) -> None:
    base, edited = figures(said, "base", "all"), figures(said, "joint, base", "all")
    assert edited["NA"] >= 0.9
    assert edited["untouched"] >= 0.94
    assert edited["ppl"] <= 1.05 * base["ppl"]


def test_the_command_tells_the_story_and_takes_an_edit_back(said: str) -> None:
    answers = dict(re.findall(r"(before the edit|after the edit|after the revert) +'([^']*)'", said))
    target = re.search(r"-> '([^']*)'", said)
    assert target and answers["after the edit"] == target[1] != answers["before the edit"]
    assert answers["after the revert"] == answers["before the edit"]
    assert figures(said, "batch, live", "all")["EA"] >= 0.97
    base, told, edited = re.findall(
        r"(0|1)\.\d+ \[", next(line for line in said.splitlines() if line.startswith("exact"))
    )
    assert (base, edited) == ("0", "1") and told in "01"


def test_a_missing_model_is_an_error_with_its_exit_code() -> None:
    done = command("demo", "--model", "no/such/model")
    assert done.code == 8
    assert done.err.startswith("error: ") and "no/such/model" in done.err and "Traceback" not in done.err
