"""Measure downstream tasks that are questions with one answer each: the bundled world's, or any list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.scores import Figure, Question, mean_figure, score_continuations


def measure_tasks(editable: EditableModel, tasks: Mapping[str, Sequence[Question]]) -> dict[str, Figure]:
    """Give `<task>/argmax` for every task: the share of its (prompt, answer) pairs whose answer is the first choice.

    All tokens of the answer must be, teacher-forced. The count is that of distinct pairs: asking one twice is no
    further evidence.
    """
    asked = {task: list(dict.fromkeys(pairs)) for task, pairs in tasks.items()}
    pairs = list(dict.fromkeys(pair for own in asked.values() for pair in own))
    scores = dict(zip(pairs, score_continuations(editable.model, editable.texts, pairs), strict=True))
    return {
        f"{task}/argmax": mean_figure([float(scores[pair].argmax) for pair in own], f"The task {task!r} is empty.")
        for task, own in asked.items()
    }
