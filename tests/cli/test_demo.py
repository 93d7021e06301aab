"""What the demo promises: the figures of its stream, and that the command runs and tells it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lifelong_edit.cli.demo import BATCH, COHORT, HEADERS
from lifelong_edit.datasets.drafts import line_of
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.scores import EditScores, argmax_rate, score_edits
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.tasks import held_out_stories
from tests.cli.conftest import command

MODEL = Path(__file__).parents[2] / "checkpoints" / "tiny-world"
STREAMED = 200  # the demo's stream has 300
Streamed = tuple[LifelongEditor, EditScores, EditScores, float]


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streamed]:
    """The default editor after a stream like the demo's, scores of all and of the oldest edits, base perplexity."""
    requests = edit_requests(World.generate(BUNDLED_SEED), STREAMED, seed=0)
    with LifelongEditor.create(tmp_path_factory.mktemp("demo"), MODEL, dtype=torch.float32) as editor:
        base = perplexity(editor.model, editor.editable.tokenizer, stories())
        edits = tmp_path_factory.mktemp("edits") / "edits.jsonl"
        edits.write_bytes(b"".join(line_of(request) + b"\n" for request in requests))
        assert sum(commit.requests for commit in editor.stream(edits, BATCH)) == STREAMED
        yield editor, score_edits(editor.editable, requests), score_edits(editor.editable, requests[:COHORT]), base


def stories() -> list[str]:
    return held_out_stories(World.generate(BUNDLED_SEED), 100, seed=0)


def test_old_and_new_edits_hold_and_carry_over_to_paraphrases(streamed: Streamed) -> None:
    _, every, oldest, _ = streamed
    assert every.ea is not None and every.ea >= 0.97
    assert oldest.ea is not None and oldest.ea >= 0.97
    assert every.pa is not None and every.pa >= 0.93


def test_what_nobody_edited_is_still_known(streamed: Streamed) -> None:
    editor, every, _, base = streamed
    model, tokenizer = editor.model, editor.editable.tokenizer
    assert every.na is not None and every.na >= 0.90
    assert argmax_rate(model, tokenizer, untouched_facts(World.generate(BUNDLED_SEED), 400, STREAMED, seed=0)) >= 0.94
    assert perplexity(model, tokenizer, stories()) <= 1.05 * base


def figures(said: str, way: str, facts: str) -> dict[str, float]:
    """A row of the table of scores."""
    found = re.search(rf"^{way} +{facts} +(\d.*)$", said, flags=re.M)
    assert found, (way, facts)
    return dict(zip(HEADERS, map(float, found[1].split()), strict=False))


def test_the_command_tells_the_story_and_takes_an_edit_back(tmp_path: Path) -> None:
    done = command("demo", "--quick", "--stores", tmp_path, "--model", MODEL)
    assert done.code == 0, done.err
    said = done.out
    answers = dict(re.findall(r"(before the edit|after the edit|after the revert) +'([^']*)'", said))
    target = re.search(r"-> '([^']*)'", said)
    assert target and answers["after the edit"] == target[1] != answers["before the edit"]
    assert answers["after the revert"] == answers["before the edit"]
    assert all(figures(said, way, "all")["EA"] >= 0.97 for way in ("joint, base", "batch, live"))
    base, told, edited = re.findall(
        r"(0|1)\.\d+ \[", next(line for line in said.splitlines() if line.startswith("exact"))
    )
    assert (base, edited) == ("0", "1") and told in "01"


def test_a_missing_model_is_an_error_with_its_exit_code() -> None:
    done = command("demo", "--model", "no/such/model")
    assert done.code == 8
    assert done.err.startswith("error: ") and "no/such/model" in done.err and "Traceback" not in done.err
