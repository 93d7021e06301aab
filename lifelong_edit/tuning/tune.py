"""The search at work: trial edits in stores of their own, which are gone after it, and what was found in the end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lifelong_edit.editing.second_moments import Progress
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError, SolveError, StoreError
from lifelong_edit.facts import canonical_digest
from lifelong_edit.kinds.kind import State
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tuning.exam import Base, Exam, Figures, graded
from lifelong_edit.tuning.material import Material
from lifelong_edit.tuning.search import RIDGE, Step, candidate_layers, next_step
from lifelong_edit.tuning.trials import CHOSEN, ENOUGH, REPORTED, Point, Trial, Trials, best_of

TRIALS, GROUND, TRIAL = "trials.jsonl", "ground", "trial"
START = "start"
RIDGES = 4  # steps that are taken one way
REPORTS = 2  # trials that are kept time for: start and best, on facts that nothing was chosen by


@dataclass(frozen=True)
class Found:
    """What a search came to: the settings it began with and its best ones, with their figures on both exams.

    `finished` says whether no step from the best was left to try.
    """

    start: EditorSettings
    best: EditorSettings
    chosen: tuple[Figures, Figures]
    reported: tuple[Figures, Figures]
    finished: bool

    def holds(self, weight: float) -> bool:
        """Whether the best settings are better than the first on facts that neither was chosen by, too."""
        first, best = self.reported
        return self.best != self.start and best.score(weight) > first.score(weight)


class Tuning:
    """A search in the folder `work`, which holds its trials and `GROUND`, a store that all trials are made from.

    `start` are settings with nothing left open; `weight` is what a first choice that is not kept counts against a form
    that is said. A context manager: one process searches in a folder at a time.
    """

    def __init__(
        self,
        work: Path,
        editable: EditableModel,
        material: Material,
        start: EditorSettings,
        weight: float,
        progress: Progress | None = None,
    ) -> None:
        if not 0 <= weight < float("inf"):
            raise RequestError(f"What a lost first choice weighs is a number of 0 or more, not {weight}.")
        work.mkdir(parents=True, exist_ok=True)
        self.start, self.weight = start, weight
        self._work, self._material, self._depth = work, material, editable.layers
        self._candidates = candidate_layers(start, editable.layers)
        job = {
            "model": fingerprint(editable),
            "facts": canonical_digest([[f.to_dict() for f in exam.facts] for exam in self._exams.values()]),
            "prompts": canonical_digest([[e.prompts for e in self._exams.values()], material.prompts]),
            "text": canonical_digest([[e.passages for e in self._exams.values()], material.text]),
            "start": start.to_dict(),
            "weight": weight,
        }
        self.trials = Trials(work / TRIALS, job, start)
        begin = time.process_time()
        self._ground = self._opened(editable, f"tune {canonical_digest(job)[:16]}", progress)
        self._collecting = time.process_time() - begin
        self._bases: dict[str, Base] = {}

    def run(self, seconds: float) -> Iterator[Trial]:
        """Make trials and give each when it is done, until no step is better or `seconds` of processor time are over.

        What earlier runs took for trials counts, and what this one took to collect second moments. In the end the start
        and the best are asked what nothing was chosen by. Raises `SolveError` when the start itself cannot be written.
        """
        while step := self._next(seconds):
            yield self._tried(CHOSEN, self._material.chosen, step)
        best = self._best()
        for name, settings in (("start", self.start), ("best", best)):
            known = [trial.step.settings for trial in self.trials.of(REPORTED)]
            if settings not in known:
                yield self._tried(REPORTED, self._material.reported, Step(name, settings))

    def found(self) -> Found:
        """What came of it, once `run` has ended."""
        best = self._best()

        def figures(exam: str, settings: EditorSettings) -> Figures:
            return next(
                point.figures
                for trial in self.trials.of(exam)
                for point in trial.points
                if trial.settings(point) == settings
            )

        chosen, reported = ((figures(exam, self.start), figures(exam, best)) for exam in (CHOSEN, REPORTED))
        return Found(self.start, best, chosen, reported, self._step() is None)

    def close(self) -> None:
        """Let another process search here."""
        self._ground.close()

    def __enter__(self) -> Tuning:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def _exams(self) -> dict[str, Exam]:
        return {CHOSEN: self._material.chosen, REPORTED: self._material.reported}

    def _opened(self, editable: EditableModel, purpose: str, progress: Progress | None) -> LifelongEditor:
        """The store of all candidate layers, made or, by an earlier run, made already; its reason is the purpose."""
        path, settings = self._work / GROUND, replace(self.start, layers=self._candidates)
        try:
            ground = LifelongEditor.open(path, editable)
        except StoreError:  # there is none, or it was not finished
            text, prompts = self._material.text, self._material.prompts or None
            return LifelongEditor.create(
                path, editable, settings, text, reason=purpose, progress=progress, prompts=prompts
            )
        if ground.head.body["reason"] != purpose:
            ground.close()
            raise RequestError(f"{path} was made for another search. Remove it, or name another folder.")
        return ground

    def _next(self, seconds: float) -> Step | None:
        """The next step there is time for."""
        if not self.trials.of(CHOSEN):
            return Step(START, self.start)
        longest = max(trial.seconds for trial in self.trials.of(CHOSEN))
        left = seconds - self._collecting - self.trials.seconds - REPORTS * longest
        return self._step() if left >= longest else None

    def _step(self) -> Step | None:
        tried = [trial.step for trial in self.trials.of(CHOSEN)]
        return next_step(self._best(), tried, self._candidates, self._depth)

    def _best(self) -> EditorSettings:
        """The best settings so far."""
        found = best_of(self.trials.of(CHOSEN), self.weight)
        if found is None:
            told = next((trial.refused for trial in self.trials.of(CHOSEN) if trial.refused), "no trial was made")
            raise SolveError(f"The settings that the search begins with cannot be written: {told}")
        trial, point = found
        return trial.settings(point)

    def _tried(self, name: str, exam: Exam, step: Step) -> Trial:
        """Make a trial and keep it."""
        begin = time.process_time()
        if name not in self._bases:
            with self._ground.kind.showing(self._ground.kind.base) as editable:
                self._bases[name] = Base.of(editable, exam)
        points: dict[float, Figures] = {}
        refused = None
        with _passing(self._work / TRIAL) as folder:
            try:
                with self._ground.sibling(folder, step.settings) as editor:
                    editor.apply(exam.facts)
                    points = self._points(editor, name, exam, step)
            except SolveError as error:
                refused = str(error)
        made = tuple(Point(ridge, figures) for ridge, figures in points.items())
        trial = Trial(name, step, made, time.process_time() - begin, refused)
        self.trials.add(trial)
        return trial

    def _points(self, editor: LifelongEditor, name: str, exam: Exam, step: Step) -> dict[float, Figures]:
        """The figures as the facts were written, and where these are the best so far, with ridges beside it."""
        kind, first = editor.kind, editor.settings.ridge or 0.0

        def asked(state: State) -> Figures:
            with kind.showing(state) as editable:
                return graded(editable, exam, self._bases[name])

        points = {first: asked(editor.state)}
        best = best_of(self.trials.of(CHOSEN), self.weight)
        highest = -float("inf") if best is None else best[1].figures.score(self.weight)
        if name == REPORTED or points[first].score(self.weight) <= highest or not first:
            return points
        return climbed(points, first, lambda ridge: asked(kind.at_ridge(editor.standing, ridge)), self.weight)


@contextmanager
def _passing(folder: Path) -> Iterator[Path]:
    """A folder that is not there before the block, whatever a run that was killed has left, nor after it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def climbed(
    points: dict[float, Figures], first: float, measure: Callable[[float], Figures], weight: float
) -> dict[float, Figures]:
    """The points and those met on the way from the ridge `first` by steps down or, where that is no better, up."""
    found = dict(points)
    for factor in (1 / RIDGE, RIDGE):
        ridge, last = first, found[first]
        for _ in range(RIDGES):
            ridge *= factor
            found[ridge] = measure(ridge)
            if found[ridge].score(weight) <= last.score(weight) + ENOUGH:
                break
            last = found[ridge]
        if last is not found[first]:
            break
    return found
