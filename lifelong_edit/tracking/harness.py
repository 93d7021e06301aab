"""Run EleutherAI's lm-evaluation-harness on the live model with the user's own task files; needs the extra `eval`."""

from __future__ import annotations

import copy
import math
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.scores import Figure

RESAMPLES = 1_000  # for metrics whose standard error has no closed form
SERIAL = "DISABLE_MULTIPROC"  # the harness would fork a process that holds a model for each core


def measure_harness(
    editable: EditableModel, folder: Path, tasks: Sequence[str], batch_size: int = 8, limit: int | None = None
) -> dict[str, Figure]:
    """Run the named tasks on at most `limit` questions each, and give every metric as `<task>/<metric>`.

    A filter other than the harness's default is named behind a comma. The tasks are those of the YAML files under
    `folder` alone; nothing of the model is loaded again or changed. A task file is the user's program: it may name
    Python functions beside it, and it says where its questions come from. Raises `RequestError` when the extra is not
    installed, or when the folder has no such task.
    """
    evaluator, models, manager = _harness(folder)
    unknown = sorted(set(tasks) - set(manager.all_tasks))
    if unknown or not tasks:
        raise RequestError(
            f"{folder} has no tasks {unknown[:5]}: it has {manager.all_tasks[:20]}. Name tasks of its YAML files."
        )
    tokenizer = copy.deepcopy(editable.tokenizer)  # the harness sets its padding
    model = models.HFLM(pretrained=editable.model, tokenizer=tokenizer, batch_size=batch_size)
    with _contained():
        results = evaluator.simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            bootstrap_iters=RESAMPLES,
            random_seed=None,  # the caller's generators stay as they are
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    return dict(_figures(results))


def _harness(folder: Path) -> tuple[Any, Any, Any]:
    """Import the harness: its evaluator, its wrapper of transformers models, and a manager of the folder's tasks."""
    try:
        from lm_eval import evaluator
        from lm_eval.models import huggingface as models
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise RequestError(
            f"lm-evaluation-harness cannot be imported: {error}. Install it with: pip install 'lifelong-edit[eval]'."
        ) from error
    return evaluator, models, TaskManager(include_path=str(folder), include_defaults=False)


def _figures(results: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    for task, measured in results["results"].items():
        samples = results["samples"].get(task, [])
        for name, value in measured.items():
            metric, comma, filtered = name.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            # A task of several filters gives each question once a filter.
            each = [sample[metric] for sample in samples if sample["filter"] == filtered and metric in sample]
            figure = Figure(
                value=_number(value),
                count=len(each) or int(measured.get("sample_len", 0)),
                error=_number(measured.get(f"{metric}_stderr,{filtered}")),
                reason=None if _number(value) is not None else f"The harness gives {value!r}.",
                each=tuple(map(_number, each)),
            )
            yield f"{task}/{metric if filtered == 'none' else name}", figure


def _number(value: Any) -> float | None:
    """The value as a float; None for what is no number, as the harness's N/A."""
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else None


@contextmanager
def _contained() -> Iterator[None]:
    """Let the harness resample in this process, print to standard error, be quiet about odd resamples, and leave
    Python's generator as it was.
    """
    before, state = os.environ.get(SERIAL), random.getstate()
    os.environ[SERIAL] = "1"
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="sklearn")
            yield
    finally:
        random.setstate(state)
        os.environ.pop(SERIAL)
        if before is not None:
            os.environ[SERIAL] = before
