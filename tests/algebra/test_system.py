"""Taking facts out of the whole system equals never having had them there."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifelong_edit.algebra.columns import Columns, Pair
from lifelong_edit.algebra.objective import Memory, fold
from lifelong_edit.algebra.system import removal, solve_whole, whole_system
from lifelong_edit.errors import SolveError

from .problems import Problem, assert_same, make_problem

MEMORIES = pytest.mark.parametrize("memory", list(Memory))
SIZES = (3, 2, 4)


def without(problem: Problem, removed: set[int]) -> list[Columns]:
    kept = torch.tensor([i not in removed for i in range(sum(SIZES))])
    return [columns.take(mask) for columns, mask in zip(problem.batches, kept.split(SIZES), strict=True)]


def delta(batches: list[Columns], memory: Memory) -> Tensor:
    return Pair.concatenate(fold(batches, memory, math.inf)).dense()


@MEMORIES
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), removed=st.sets(st.integers(0, 8)))
def test_removal_is_the_difference_to_the_stream_without_the_facts(
    memory: Memory, seed: int, removed: set[int]
) -> None:
    problem = make_problem(seed, SIZES)
    before, after = delta(problem.batches, memory), delta(without(problem, removed), memory)
    pair = removal(problem.batches, memory, removed)
    assert pair.rank == len(removed)
    assert (before + pair.dense() - after).norm() <= 1e-9 * before.norm()


@MEMORIES
def test_the_whole_system_holds_its_part_of_the_gram(memory: Memory) -> None:
    problem = make_problem(1, SIZES)
    whole = problem.whole
    gram = whole.keys.T @ torch.linalg.inv(problem.moment) @ whole.keys
    expected = gram + whole.ridge.diag()
    if memory == Memory.batch:
        expected[3:, :3] = 0
        expected[5:, :5] = 0
    assert_same(whole_system(problem.batches, memory), expected)
    assert_same(solve_whole(problem.batches, memory) @ expected, whole.base_residuals)


@MEMORIES
def test_a_kept_fact_without_residual_does_not_spoil_the_check(memory: Memory) -> None:
    whole = make_problem(2, SIZES).whole
    residuals = whole.base_residuals.clone()
    residuals[:, 1:] = 0
    batches = [Columns(whole.keys, whole.whitened, residuals, whole.ridge, whole.names)]
    pair = removal(batches, memory, [0])
    assert (delta(batches, memory) + pair.dense()).norm() <= 1e-9 * pair.dense().norm()


@MEMORIES
def test_colliding_facts_with_ridge_zero_are_refused(memory: Memory) -> None:
    whole = make_problem(3, SIZES, ridge=0.0).whole
    residuals = whole.base_residuals[:, :3]  # the third fact wants another value for the first one's key
    ids = [0, 1, 0]
    twice = [Columns(whole.keys[:, ids], whole.whitened[:, ids], residuals, whole.ridge[:3], ("a", "b", "c"))]
    with pytest.raises(SolveError, match="ridge"):
        solve_whole(twice, memory)
    with pytest.raises(SolveError, match="ridge"):
        removal(twice, memory, [1])
