"""Changing columns of the whole system equals having written them so in the first place."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifelong_edit.algebra.system import (
    Columns,
    Memory,
    Pair,
    append,
    fold,
    insertion,
    removal,
    replacement,
    solve_whole,
    whole_system,
)
from lifelong_edit.errors import SolveError

from .problems import D_OUT, Problem, assert_same, make_problem

MEMORIES = pytest.mark.parametrize("memory", list(Memory))
SIZES = (3, 2, 4)


def without(problem: Problem, removed: set[int]) -> list[Columns]:
    kept = torch.tensor([i not in removed for i in range(sum(SIZES))])
    return [columns.take(mask) for columns, mask in zip(problem.batches, kept.split(SIZES), strict=True)]


def with_residuals(problem: Problem, residuals: Tensor) -> list[Columns]:
    batches = zip(problem.batches, residuals.split(SIZES, dim=1), strict=True)
    return [Columns(b.keys, b.whitened, wanted, b.ridge, b.names) for b, wanted in batches]


def delta(batches: list[Columns], memory: Memory) -> Tensor:
    return Pair.concatenate(fold(batches, memory, math.inf)).dense()


@MEMORIES
@settings(max_examples=40, derandomize=True)
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
@settings(max_examples=40, derandomize=True)
@given(seed=st.integers(0, 10_000), added=st.sets(st.integers(0, 8)))
def test_insertion_is_the_difference_from_the_stream_without_the_facts(
    memory: Memory, seed: int, added: set[int]
) -> None:
    problem = make_problem(seed, SIZES)
    before, after = delta(without(problem, added), memory), delta(problem.batches, memory)
    pair = insertion(problem.batches, memory, added)
    assert pair.rank == len(added)
    assert (before + pair.dense() - after).norm() <= 1e-9 * after.norm()


@MEMORIES
@settings(max_examples=40, derandomize=True)
@given(seed=st.integers(0, 10_000), changed=st.lists(st.integers(0, 8), min_size=1, unique=True))
def test_replacement_is_the_difference_to_the_stream_with_other_values(
    memory: Memory, seed: int, changed: list[int]
) -> None:
    """By explicit inverses; `changed` is in any order, and `shift` in the same."""
    problem = make_problem(seed, SIZES)
    shift = torch.randn(D_OUT, len(changed), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pair = replacement(problem.batches, memory, changed, shift, math.inf)
    other = problem.whole.base_residuals.clone()
    other[:, changed] += shift
    inverse = torch.linalg.inv(whole_system(problem.batches, memory))
    after = other @ inverse @ problem.whole.keys.T @ torch.linalg.inv(problem.moment)
    assert pair.rank == len(changed)
    assert (delta(problem.batches, memory) + pair.dense() - after).norm() <= 1e-9 * after.norm()
    assert (delta(with_residuals(problem, other), memory) - after).norm() <= 1e-9 * after.norm()


@pytest.mark.parametrize("last", range(9))
def test_a_replacement_is_amplified_as_if_its_fact_were_appended_last(last: int) -> None:
    """In joint memory, whose system does not know an order."""
    whole = make_problem(4, SIZES, ridge=0.1).whole
    others, own = whole.take([i for i in range(9) if i != last]), whole.take([last])
    earlier = append(others, whole.nothing(), Memory.joint, math.inf)
    pair = append(own, earlier, Memory.joint, math.inf)
    asked = own.base_residuals - earlier.dense() @ own.keys
    expected = float(pair.left.norm() * (own.keys * own.whitened).sum().sqrt() / asked.norm())
    shift = torch.ones(D_OUT, 1, dtype=torch.float64)
    replacement([whole], Memory.joint, [last], shift, 1.000001 * expected)
    with pytest.raises(SolveError, match=rf"'fact-{last}' is amplified"):
        replacement([whole], Memory.joint, [last], shift, 0.999999 * expected)


def test_a_new_value_beside_a_nearly_equal_key_is_refused_by_name() -> None:
    """With ridge 0 and 1 - cos of about 3e-9 every residual check passes; a ridge makes it harmless."""
    problem = make_problem(5, (3,), ridge=0.0)
    keys = problem.whole.keys.clone()
    keys[:, 2] = keys[:, 0] + 1e-4 * keys[:, 2]
    shift = torch.ones(D_OUT, 2, dtype=torch.float64)
    residuals, ridge = problem.whole.base_residuals, problem.whole.ridge
    with pytest.raises(SolveError, match=r"'fact-0' is amplified .* Revert one of them") as refusal:
        replacement([problem.columns(keys, residuals, ridge)], Memory.joint, [1, 0], shift)
    assert "fact-2" not in str(refusal.value)
    damped = problem.columns(keys, residuals, ridge + 1.0)
    assert replacement([damped], Memory.joint, [1, 0], shift).rank == 2


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
