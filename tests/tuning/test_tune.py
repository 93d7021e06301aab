"""A search keeps its trials, goes on from them, changes nothing, and finds what a store of these settings gives."""

from __future__ import annotations

import shutil
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.statistics import StatisticsSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError, SolveError, StoreBusy
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tuning.exam import Base, Exam, Figures, graded
from lifelong_edit.tuning.material import Material
from lifelong_edit.tuning.trials import ENOUGH
from lifelong_edit.tuning.tune import GROUND, TRIAL, TRIALS, Tuning, climbed
from tests.samples import QUICK, REQUESTS, TEXT, lively_editable

HOURS = 1e6
SETTINGS: dict[str, Any] = {
    "layers": (0,), "contexts": 1, "target": QUICK, "ridge": 0.5, "confidence": 0.5, "norm_limit": None,
    "statistics": StatisticsSettings(tokens=400),
}  # fmt: skip
START = EditorSettings(**SETTINGS)
FACTS = tuple(replace(request, id=None) for request in REQUESTS)
MATERIAL = Material(
    chosen=Exam(FACTS[:2], ("The river. ",), ("The river", "In 1912 he"), (TEXT[0],)),
    reported=Exam(FACTS[2:4], (), ("Where does", "The founder"), (TEXT[1],)),
    text=tuple(TEXT[2:]),
    prompts=("Ada Quill was born in Tarsis.", "Bo Lund lives in Marn."),
)


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return lively_editable("gpt2")


@pytest.fixture(scope="module")
def done(editable: EditableModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a search ended. Do not change it."""
    work = tmp_path_factory.mktemp("search") / "work"
    with tuning(work, editable) as search:
        list(search.run(HOURS))
    return work


def tuning(work: Path, editable: EditableModel, **choices: Any) -> Tuning:
    given = {"material": MATERIAL, "start": START, "weight": 1.0, **choices}
    return Tuning(work, editable, given["material"], given["start"], given["weight"])


def test_it_begins_with_the_start_ends_with_two_reports_and_nothing_left_to_try(
    done: Path, editable: EditableModel
) -> None:
    with tuning(done, editable) as search:
        found, trials = search.found(), search.trials.done
        assert list(search.run(HOURS)) == []
    assert found.finished and trials[0].step.settings == START
    reported = [trial.step.settings for trial in trials if trial.exam == "reported"]
    assert reported == list(dict.fromkeys([START, found.best])) and trials[-1].exam == "reported"
    scores = [point.figures.score(1.0) for trial in trials if trial.exam == "chosen" for point in trial.points]
    assert found.chosen[1].score(1.0) >= max(scores) - ENOUGH and len(scores) > len(trials)  # ridges need no targets
    assert {path.name for path in done.iterdir()} == {TRIALS, GROUND}


def test_an_interrupted_search_makes_the_same_trials(done: Path, editable: EditableModel, tmp_path: Path) -> None:
    for _ in range(3):
        with tuning(tmp_path / "work", editable) as search:
            next(search.run(HOURS))
    lines = [(folder / TRIALS).read_text().splitlines() for folder in (done, tmp_path / "work")]
    assert len(lines[1]) == 4
    with tuning(done, editable) as whole, tuning(tmp_path / "work", editable) as part:
        for one, other in zip(whole.trials.done, part.trials.done, strict=False):
            assert (one.exam, one.step, one.points) == (other.exam, other.step, other.points)


def test_without_time_only_the_start_is_tried_and_reported(editable: EditableModel, tmp_path: Path) -> None:
    with tuning(tmp_path, editable) as search:
        made = [(trial.exam, trial.step.name) for trial in search.run(0.0)]
        assert made[:2] == [("chosen", "start"), ("reported", "start")]
        assert len(search.trials.of("chosen")) == 1 and not search.found().finished


def test_a_point_is_what_a_store_of_its_settings_comes_to(done: Path, editable: EditableModel, tmp_path: Path) -> None:
    base = Base.of(editable, MATERIAL.chosen)
    ground = LifelongEditor.open(shutil.copytree(done / GROUND, tmp_path / "ground"), editable)
    with ground, tuning(done, editable) as search:
        trial = max(search.trials.of("chosen"), key=lambda trial: len(trial.points))
        assert len(trial.points) > 1
        for number, point in enumerate(trial.points):
            with ground.sibling(tmp_path / str(number), trial.settings(point)) as sibling:
                sibling.apply(MATERIAL.chosen.facts)
                found = graded(sibling.editable, MATERIAL.chosen, base)
            assert astuple(found) == pytest.approx(astuple(point.figures), abs=1e-4)


def test_the_model_is_left_as_it_was(editable: EditableModel, tmp_path: Path) -> None:
    before = {name: weight.clone() for name, weight in editable.model.state_dict().items()}
    with tuning(tmp_path, editable) as search:
        list(search.run(0.0))
    assert all(torch.equal(before[name], weight) for name, weight in editable.model.state_dict().items())


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"weight": 2.0}, "weight"),
        ({"start": replace(START, ridge=0.25)}, "start"),
        ({"material": replace(MATERIAL, prompts=())}, "prompts"),
        ({"material": replace(MATERIAL, chosen=MATERIAL.reported)}, "facts, prompts, text"),
    ],
)
def test_trials_of_something_else_are_not_gone_on_with(
    choices: dict[str, Any], told: str, done: Path, editable: EditableModel
) -> None:
    with pytest.raises(RequestError, match=told):
        tuning(done, editable, **choices)


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n{}\n", "nonsense\n"])
def test_what_is_no_file_of_trials_is_refused(text: str, editable: EditableModel, tmp_path: Path) -> None:
    (tmp_path / TRIALS).write_text(text)
    with pytest.raises(RequestError, match=TRIALS):
        tuning(tmp_path, editable)


def test_a_store_that_another_search_left_is_not_taken(done: Path, editable: EditableModel, tmp_path: Path) -> None:
    shutil.copytree(done / GROUND, tmp_path / GROUND)
    with pytest.raises(RequestError, match="another search"):
        tuning(tmp_path, editable, material=replace(MATERIAL, text=MATERIAL.text[:-1]))


def test_what_a_killed_run_left_of_a_trial_goes(editable: EditableModel, tmp_path: Path) -> None:
    (tmp_path / TRIAL).mkdir()
    (tmp_path / TRIAL / "ledger.db").write_text("half")
    with tuning(tmp_path, editable) as search:
        list(search.run(0.0))
    assert not (tmp_path / TRIAL).exists()


def test_one_process_searches_in_a_folder_at_a_time(done: Path, editable: EditableModel) -> None:
    with tuning(done, editable), pytest.raises(StoreBusy):
        tuning(done, editable)


def test_a_start_that_cannot_be_written_says_why(editable: EditableModel, tmp_path: Path) -> None:
    with (
        tuning(tmp_path, editable, start=replace(START, norm_limit=1e-6)) as search,
        pytest.raises(SolveError, match="norm"),
    ):
        list(search.run(HOURS))


def test_a_ridge_is_climbed_in_the_direction_that_is_better_and_a_little_beyond() -> None:
    def met(peak: float) -> set[float]:
        def figures(ridge: float) -> Figures:
            return Figures(1, 1, 1, 1, 1, said=-abs(ridge - peak), kept=1.0)

        return set(climbed({1.0: figures(1.0)}, 1.0, figures, 3.0))

    assert met(1.0) == {0.5, 1, 2} and met(0.25) == {0.125, 0.25, 0.5, 1} and met(4.0) == {0.5, 1, 2, 4, 8}
    assert met(1e9) == {0.5, 1, 2, 4, 8, 16}
