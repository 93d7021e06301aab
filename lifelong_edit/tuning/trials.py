"""Trials, and the file that keeps them: a line of JSON each behind a first line that says what they are trials of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.errors import RequestError
from lifelong_edit.store.objects import replace_file
from lifelong_edit.tuning.exam import Figures
from lifelong_edit.tuning.search import Step

CHOSEN, REPORTED = "chosen", "reported"
ENOUGH = 0.005  # of a score
OPEN = ("layers", "ridge", "target")  # what a search may change


@dataclass(frozen=True)
class Point:
    """What came of one setting: the figures with this ridge, in mean key masses."""

    ridge: float
    figures: Figures


@dataclass(frozen=True)
class Trial:
    """One edit of all facts of an exam, `CHOSEN` or `REPORTED`, under the settings of a step.

    Targets were found once; a point says what they come to with another ridge. There is none where the edit was
    refused, which `refused` then tells. `seconds` are of processor time.
    """

    exam: str
    step: Step
    points: tuple[Point, ...]
    seconds: float
    refused: str | None = None

    def best(self, weight: float) -> Point | None:
        """The point with the highest score."""
        return max(self.points, key=lambda point: point.figures.score(weight), default=None)

    def settings(self, point: Point) -> EditorSettings:
        """The settings of a point."""
        return replace(self.step.settings, ridge=point.ridge)


class Trials:
    """The trials in a file, to which every new one is added as soon as it is done.

    `job` is what decides their figures. Raises `RequestError` for a file that holds trials of something else, or is no
    file of trials.
    """

    def __init__(self, path: Path, job: Mapping[str, Any], start: EditorSettings) -> None:
        self._path, self._start, self._lines = path, start, [json.dumps(job, sort_keys=True)]
        self.done: list[Trial] = []
        if path.is_file():
            self._lines = path.read_text(encoding="utf-8").splitlines()
            try:
                first, *rest = (dict(json.loads(line)) for line in self._lines)
                self.done = [self._trial(values) for values in rest]
            except (ValueError, KeyError, TypeError, RequestError) as error:
                raise RequestError(f"{path} holds no trials: {error}. Remove it, or name another folder.") from error
            if changed := [name for name in job if first.get(name) != job[name]]:
                raise RequestError(
                    f"{path} holds trials of another {', '.join(changed)}. Name another folder for new ones, or give "
                    "what these were begun with."
                )
        else:
            self._save()

    @property
    def seconds(self) -> float:
        """The processor time of all trials."""
        return sum(trial.seconds for trial in self.done)

    def of(self, exam: str) -> list[Trial]:
        """The trials that were asked the questions of this exam."""
        return [trial for trial in self.done if trial.exam == exam]

    def add(self, trial: Trial) -> None:
        """Keep one more trial."""
        settings = {name: value for name, value in trial.step.settings.to_dict().items() if name in OPEN}
        line = {
            "exam": trial.exam,
            "step": trial.step.name,
            "settings": settings,
            "points": [{"ridge": point.ridge, **asdict(point.figures)} for point in trial.points],
            "seconds": round(trial.seconds, 1),
            "refused": trial.refused,
        }
        self._lines.append(json.dumps(line, ensure_ascii=False))
        self._save()
        self.done.append(trial)

    def _save(self) -> None:
        replace_file(self._path, "".join(line + "\n" for line in self._lines).encode())

    def _trial(self, values: Mapping[str, Any]) -> Trial:
        chosen = EditorSettings.from_choices(values["settings"])
        settings = replace(self._start, **{name: getattr(chosen, name) for name in OPEN})
        points = tuple(
            Point(point["ridge"], Figures(**{name: value for name, value in point.items() if name != "ridge"}))
            for point in values["points"]
        )
        step = Step(values["step"], settings)
        return Trial(values["exam"], step, points, values["seconds"], values["refused"])


def best_of(trials: Sequence[Trial], weight: float) -> tuple[Trial, Point] | None:
    """The trial and point with the best score; None where there is none.

    A later one has to be better by `ENOUGH`: twenty facts do not tell less apart, and would lead ever further away.
    """
    best: tuple[Trial, Point] | None = None
    for trial in trials:
        for point in trial.points:
            if best is None or point.figures.score(weight) > best[1].figures.score(weight) + ENOUGH:
                best = trial, point
    return best
