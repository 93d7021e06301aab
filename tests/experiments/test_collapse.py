"""The scripts of collapse and of hard edits, at a small size."""

from __future__ import annotations

from pathlib import Path

import pytest

import collapse
import hard_edits
from hard_edits import Candidate, Trial
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import HealthStop
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.budget import Budget
from lifelong_edit.tracking.health import HealthLimits, Limit
from lifelong_edit.tracking.watch import Watch
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.tasks import held_out_stories
from tests.world.test_tiny_world import FOLDER

WORLD = World.generate(BUNDLED_SEED)
STREAM = edit_requests(WORLD, 6, seed=0)
FACTS = untouched_facts(WORLD, 30, 600, seed=0)
PUBLISHED = {"memory": "batch", "targets": "live"}  # in the layer whose second moment is bundled
EASY = {"damage": 0.0, "preservation": 0.0, "norm": 0.0, "kept": 1.0, "lost": 0.0, "condition": 1.0}


@pytest.fixture
def editor(tmp_path: Path) -> LifelongEditor:
    return collapse.created(str(tmp_path), FOLDER, PUBLISHED, Watch(tuple(FACTS[:10])))


def test_watched_and_measured_facts_differ() -> None:
    asked = untouched_facts(WORLD, collapse.WATCHED + collapse.MEASURED, 600, seed=0)
    assert not set(asked[: collapse.WATCHED]) & set(asked[collapse.WATCHED :])
    assert not {request.question for request in STREAM} & {prompt for prompt, _ in asked}


def test_a_run_counts_as_forgotten_what_was_learnt_and_is_not_said(editor: LifelongEditor) -> None:
    edits = [(request.question, request.target_new) for request in STREAM]
    with editor:
        run = collapse.Run(editor, edits, FACTS[10:], held_out_stories(WORLD, 2, 0))
        editor.apply(STREAM[:3], "emmet")
        run.learn(0, 3)
        told = run.figures(3)
        assert run.learnt == {0, 1, 2} and told["efficacy"] == 1.0 and told["forgotten"] == 0.0
        editor.revert(commit=1)
        assert run.figures(3)["forgotten"] == 1.0


def test_a_budget_ends_the_stream_where_it_turns_red(editor: LifelongEditor) -> None:
    budget = Budget(every=1, limits=HealthLimits(norm=Limit(0.15, 0.15)))
    with editor:
        run = collapse.Run(editor, [], FACTS[10:], held_out_stories(WORLD, 2, 0))
        row = collapse.stopped(run, STREAM, "rome", 1, budget)
        assert row["exit"] == HealthStop.exit_code and row["unchanged"] and "norm" in row["said"]
        assert row["facts"] == len(editor.facts()) and 0 < row["facts"] < len(STREAM)
        assert f"with {row['facts']} facts" in collapse.ending(row)
        with pytest.raises(RuntimeError, match="none of 1"):
            collapse.stopped(run, STREAM[:1], "rome", 1, Budget(every=9))


def test_the_tables_say_where_a_run_turned_red_and_where_it_fell_ill(tmp_path: Path) -> None:
    figures = dict.fromkeys(collapse.FIGURES, 1.0)
    rows = [{"memory": "batch", "size": 10, **figures, "facts": 0}]
    for count, untouched, red in ((50, 0.97, []), (100, 0.9, ["recall"]), (150, 0.7, ["recall"])):
        rows.append({"memory": "batch", "size": 10, **figures, "facts": count, "untouched": untouched, "red": red})
    first = collapse.text_of(rows).splitlines()[2]
    assert [cell.strip() for cell in first.split("|")[3:5]] == ["100", "recall"] and "150" in first
    collapse.picture(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_every_kind_of_candidate_is_made_and_none_asks_of_the_measured_people() -> None:
    made = list(hard_edits.candidates(WORLD, 3, seed=0))
    assert {len(candidate.requests) for candidate in made} >= {1, 4}
    assert len({candidate.kind for candidate in made}) == 13
    people = {name for prompt, _ in FACTS for name in WORLD.entities["person"] if name in prompt}
    assert not people & {request.subject for candidate in made for request in candidate.requests}


def test_a_trial_leaves_no_trace(editor: LifelongEditor) -> None:
    word = Candidate("word", (EditRequest("{} plays the", "book", "drum"), EditRequest("{} studied", "lamp", "law")))
    ordinary = Candidate("ordinary", (STREAM[0],))
    with editor:
        before = editor.editable.weight(1).clone()
        first, hard, again = hard_edits.trials(editor, [ordinary, word, ordinary], FACTS)
        assert editor.editable.weight(1).equal(before)
    assert first == again and first.kept == 1.0 and first.lost == 0.0
    assert hard.preservation > 10 * first.preservation and hard.damage != first.damage


def test_the_set_holds_the_worst_in_damage_and_in_conflict_once() -> None:
    singles = [Trial(Candidate("word", (r,)), **{**EASY, "damage": d}) for d, r in enumerate(STREAM[:4])]
    group = Trial(Candidate("contradiction", tuple(STREAM[4:])), **{**EASY, "lost": 0.5})
    again = Trial(Candidate("initial", (STREAM[3],)), **{**EASY, "damage": 9.0})
    chosen = hard_edits.worst([*singles, group, again], 6)
    asked = [request.statement for trial in chosen for request in trial.candidate.requests]
    assert chosen[0] is again and group in chosen and singles[3] not in chosen
    assert len(asked) == len(set(asked)) == 6
