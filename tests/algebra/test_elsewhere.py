"""The algebra computes where its weights lie: nothing is mixed with tensors on the CPU, and the results stay there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric, RunningSecondMoment, SecondMoment
from lifelong_edit.algebra.system import (
    Columns,
    Memory,
    Pair,
    append,
    base_residuals,
    closed_form,
    fold,
    insertion,
    materialise,
    removal,
    replacement,
    residuals_now,
    solve_whole,
)
from lifelong_edit.algebra.telemetry import BaseSize, Telemetry, residual_parts, risks, singular_values, telemetry
from lifelong_edit.errors import SolveError
from tests.algebra.elsewhere import Elsewhere, Mixed, assert_computed_there, elsewhere, place

from .problems import Problem, make_problem


def moved(problem: Problem) -> Problem:
    """The same problem elsewhere."""
    batches = [
        Columns(*(elsewhere(getattr(batch, f.name)) for f in fields(batch) if f.name != "names"), batch.names)
        for batch in problem.batches
    ]
    return Problem(elsewhere(problem.weight), elsewhere(problem.moment), batches)


def metric(problem: Problem) -> Metric:
    return Metric.from_moment(SecondMoment(problem.moment, 1), 0.1)


def pairs(problem: Problem, memory: Memory) -> list[Pair]:
    return fold(problem.batches, memory, math.inf)


def read(problem: Problem, memory: Memory) -> Telemetry:
    slots = [f"slot of {name}" for name in problem.whole.names]
    size = BaseSize.of(problem.weight, metric(problem))
    return telemetry(problem.batches, pairs(problem, memory), memory, slots, size, limit=0.1)


def running(problem: Problem, _memory: Memory) -> SecondMoment:
    moment = RunningSecondMoment(len(problem.moment))
    for batch in problem.batches:
        moment.add(batch.keys.T)
    return moment.value()


def replaced(problem: Problem, memory: Memory) -> Pair:
    return replacement(problem.batches, memory, [1, 4], problem.whole.base_residuals[:, :2], math.inf)


def refusal(problem: Problem, memory: Memory) -> str:
    """The message about two facts with one key and no ridge."""
    one = problem.batches[0]
    twice = Columns.concatenate([one, one])
    free = Columns(twice.keys, twice.whitened, twice.base_residuals, twice.ridge * 0, twice.names)
    with pytest.raises(SolveError) as refused:
        append(free, free.nothing(), memory)
    return str(refused.value)


COMPUTED: dict[str, Callable[[Problem, Memory], Any]] = {
    "closed form": lambda p, _: closed_form(p.whole.base_residuals, p.whole.keys, p.whole.whitened, p.whole.ridge),
    "append": lambda p, memory: append(p.batches[1], pairs(p, memory)[0], memory, math.inf),
    "fold": pairs,
    "materialise": lambda p, memory: materialise(p.weight, pairs(p, memory)),
    "residuals now": lambda p, memory: residuals_now(p.batches[2], pairs(p, memory)[:2]),
    "base residuals": lambda p, memory: base_residuals(
        p.batches[2].base_residuals, p.batches[2].keys, pairs(p, memory)[:2]
    ),
    "take": lambda p, _: [p.whole.take([3, 0]), p.whole.take(torch.tensor([True, False] * 4 + [True]))],
    "whole solution": lambda p, memory: solve_whole(p.batches, memory),
    "removal": lambda p, memory: removal(p.batches, memory, {1, 5}),
    "insertion": lambda p, memory: insertion(p.batches, memory, {0, 8}, 1e6),
    "replacement": replaced,
    "metric": lambda p, _: metric(p),
    "whitened keys": lambda p, _: metric(p).whiten(p.whole.keys),
    "second moment": running,
    "telemetry": read,
    "interference": lambda p, memory: read(p, memory).interference,
    "risks": lambda p, memory: risks(read(p, memory)),
    "residual parts": lambda p, memory: residual_parts(p.batches, pairs(p, memory), 4),
    "singular values": lambda p, memory: singular_values(pairs(p, memory)[0]),
    "refusal": refusal,
}


@pytest.mark.parametrize("memory", list(Memory))
@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)
def test_it_computes_where_its_arguments_lie(compute: Callable[[Problem, Memory], Any], memory: Memory) -> None:
    problem = make_problem(0, ridge=0.3)
    with place():
        there = compute(moved(problem), memory)
    assert_computed_there(compute(problem, memory), there)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda there, here: there @ here,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: there.add_(here),
        lambda there, here: there[:, 0].copy_(here[:, 0]),
        lambda there, here: here.where(there > 0, 0.0),
        lambda there, here: there @ torch.eye(3),
        lambda there, here: torch.linalg.solve_triangular(there, here, upper=True),
    ],
)
def test_what_a_graphics_card_refuses_is_refused(mixing: Callable[[Tensor, Tensor], Tensor]) -> None:
    here = torch.eye(3)
    with place(), pytest.raises(Mixed, match="of a tensor elsewhere and one on the CPU"):
        mixing(elsewhere(torch.ones(3, 3)), here)


def test_tensors_are_made_and_moved_there_and_read_from_there() -> None:
    with place():
        there = torch.zeros(2, 3, device=elsewhere(torch.ones(1)).device)
        there[[0], [1]] = 5.0
        moves = [there.new_zeros(2), torch.tensor([1, 2], device=there.device), torch.ones(2).to(there.device)]
        assert all(isinstance(tensor, Elsewhere) and tensor.device == there.device for tensor in (there, *moves))
        assert there.sum().item() == 5.0 and (there * torch.tensor(2.0)).tolist() == [[0, 10, 0], [0, 0, 0]]
        assert type(there.cpu()) is Tensor and torch.equal(there.cpu(), there.inner)
