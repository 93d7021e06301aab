"""Formulas (1), (2) and (3) against brute force, and what the solver refuses."""

from __future__ import annotations

import math
import random

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
    base_residuals,
    closed_form,
    fold,
    materialise,
    residuals_now,
    solve_whole,
)
from lifelong_edit.errors import SolveError

from .problems import D_IN, D_OUT, Problem, assert_same, brute_force, make_problem

SEEDS = st.integers(0, 10_000)
SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple).filter(lambda sizes: 1 <= sum(sizes) <= 10)
MEMORIES = pytest.mark.parametrize("memory", list(Memory))
law = settings(max_examples=25, derandomize=True)


def delta(pairs: list[Pair]) -> Tensor:
    return Pair.concatenate(pairs).dense()


# ---- formula (1) and the published methods ------------------------------------------------------------------


@law
@given(seed=SEEDS, ridge=st.sampled_from([1e-3, 0.1, 1.0, 15.0, 2e4]))
def test_the_dual_equals_memits_published_primal(seed: int, ridge: float) -> None:
    problem = make_problem(seed, (6,), ridge)
    keys, residual = problem.whole.keys, problem.whole.base_residuals
    primal = residual @ keys.T @ torch.linalg.inv(ridge * problem.moment + keys @ keys.T)
    assert_same(closed_form(residual, keys, problem.whole.whitened, problem.whole.ridge), primal)


@law
@given(seed=SEEDS, weight=st.sampled_from([1.0, 100.0, 1e4]), damping=st.sampled_from([1e-3, 0.1, 1.0]))
def test_damped_emmet_is_memit_with_the_product_as_ridge(seed: int, weight: float, damping: float) -> None:
    problem = make_problem(seed, (5,), ridge=weight * damping)
    keys, residual = problem.whole.keys, problem.whole.base_residuals
    metric = torch.linalg.inv(weight * problem.moment)
    damped = keys.T @ metric @ keys + damping * torch.eye(5, dtype=torch.float64)
    published = residual @ torch.linalg.inv(damped) @ keys.T @ metric
    assert_same(closed_form(residual, keys, problem.whole.whitened, problem.whole.ridge), published)


@law
@given(seed=SEEDS)
def test_emmet_memorises_exactly(seed: int) -> None:
    problem = make_problem(seed, (7,), ridge=0.0)
    pairs = fold(problem.batches, Memory.batch, math.inf)
    assert_same(materialise(problem.weight, pairs) @ problem.whole.keys, problem.values)


@law
@given(seed=SEEDS)
def test_one_fact_with_ridge_zero_is_rome(seed: int) -> None:
    problem = make_problem(seed, (1,), ridge=0.0)
    key, residual = problem.whole.keys, problem.whole.base_residuals
    direction = torch.linalg.inv(problem.moment) @ key
    published = residual @ direction.T / (key.T @ direction)
    assert_same(closed_form(residual, key, problem.whole.whitened, problem.whole.ridge), published)


@law
@given(seed=SEEDS, scale=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_no_perturbation_lowers_the_objective(seed: int, scale: float) -> None:
    problem = make_problem(seed, (6,), ridge=0.7)
    columns = problem.whole

    def objective(candidate: Tensor) -> float:
        preservation = torch.trace(candidate @ problem.moment @ candidate.T)
        misses = (candidate @ columns.keys - columns.base_residuals).square().sum(dim=0)  # [n]
        return (preservation + (misses / columns.ridge).sum()).item()

    best = closed_form(columns.base_residuals, columns.keys, columns.whitened, columns.ridge)
    step = torch.randn(D_OUT, D_IN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert objective(best + scale * step) > objective(best)


@law
@given(seed=SEEDS)
def test_mixed_ridges_equal_the_weighted_primal(seed: int) -> None:
    problem = make_problem(seed, (6,), ridge=1.0)
    ridge = torch.logspace(-2, 3, 6, dtype=torch.float64)
    keys, residual = problem.whole.keys, problem.whole.base_residuals
    weighted = keys / ridge  # K Lambda^-1  [d_in, n]
    primal = residual @ weighted.T @ torch.linalg.inv(problem.moment + weighted @ keys.T)
    assert_same(closed_form(residual, keys, problem.whole.whitened, ridge), primal)


# ---- the two memories ---------------------------------------------------------------------------------------


@law
@given(seed=SEEDS, sizes=SIZES)
def test_batch_memory_is_the_published_sequence(seed: int, sizes: tuple[int, ...]) -> None:
    problem = make_problem(seed, sizes)
    weight = problem.weight
    for columns, values in zip(problem.batches, problem.values.split(list(sizes), dim=1), strict=True):
        weight = weight + brute_force(values - weight @ columns.keys, columns.keys, problem.moment, columns.ridge)
    assert_same(materialise(problem.weight, fold(problem.batches, Memory.batch, math.inf)), weight)


@law
@given(seed=SEEDS, sizes=SIZES, order=st.randoms(use_true_random=False))
def test_joint_memory_is_one_solve_in_any_order(seed: int, sizes: tuple[int, ...], order: random.Random) -> None:
    problem = make_problem(seed, sizes)
    whole = problem.whole
    expected = brute_force(whole.base_residuals, whole.keys, problem.moment, whole.ridge)
    positions = list(range(len(whole)))
    order.shuffle(positions)
    cut = order.randint(0, len(whole))
    shuffled = [whole.take(positions[:cut]), whole.take(positions[cut:])]
    assert_same(delta(fold(problem.batches, Memory.joint, math.inf)), expected)
    assert_same(delta(fold(shuffled, Memory.joint, math.inf)), expected)


@MEMORIES
@law
@given(seed=SEEDS, sizes=SIZES)
def test_the_append_equals_the_whole_system(memory: Memory, seed: int, sizes: tuple[int, ...]) -> None:
    problem = make_problem(seed, sizes)
    pairs = fold(problem.batches, memory, math.inf)
    assert_same(delta(pairs), solve_whole(problem.batches, memory) @ problem.whole.whitened.T)
    assert [pair.rank for pair in pairs] == list(sizes)


@MEMORIES
def test_one_batch_is_the_same_in_both_memories(memory: Memory) -> None:
    columns = make_problem(3, (6,)).whole
    expected = closed_form(columns.base_residuals, columns.keys, columns.whitened, columns.ridge)
    assert_same(delta(fold([columns], memory, math.inf)), expected)


@MEMORIES
@law
@given(seed=SEEDS)
def test_law_a_the_stream_without_facts_equals_the_subset(memory: Memory, seed: int) -> None:
    problem = make_problem(seed, (3, 2, 4))
    kept = torch.rand(9, generator=torch.Generator().manual_seed(seed)) < 0.6
    subset = [columns.take(mask) for columns, mask in zip(problem.batches, kept.split([3, 2, 4]), strict=True)]
    expected = solve_whole(subset, memory) @ Columns.concatenate(subset).whitened.T
    assert_same(delta(fold(subset, memory, math.inf)), expected)


@MEMORIES
def test_batches_left_empty_change_nothing(memory: Memory) -> None:
    problem = make_problem(4)
    emptied = [problem.batches[0], problem.batches[1].take([]), problem.batches[2]]
    pairs = fold(emptied, memory, math.inf)
    without = fold([emptied[0], emptied[2]], memory, math.inf)
    assert [pair.rank for pair in pairs] == [3, 0, 4]
    assert torch.equal(materialise(problem.weight, pairs), materialise(problem.weight, without))
    assert fold([], memory) == []


def test_frozen_residuals_come_back() -> None:
    problem = make_problem(5)
    first, second, third = problem.batches
    earlier = fold([first, second], Memory.joint, math.inf)
    now = residuals_now(third, earlier)
    weight = materialise(problem.weight, earlier)
    values = problem.weight @ third.keys + third.base_residuals
    assert_same(now, values - weight @ third.keys)
    assert_same(now, residuals_now(third, [Pair.concatenate(earlier)]))
    assert_same(base_residuals(now, third.keys, earlier), third.base_residuals)


def test_the_fold_is_bit_for_bit_repeatable_from_other_memory_layouts() -> None:
    problem = make_problem(6)
    elsewhere = [
        Columns(
            columns.keys.T.contiguous().T,
            torch.cat([torch.zeros(1), columns.whitened.flatten()])[1:].view(D_IN, -1),  # not aligned
            columns.base_residuals.T.contiguous().T,
            columns.ridge.clone(),
            columns.names,
        )
        for columns in problem.batches
    ]
    for columns in elsewhere:
        for tensor in (columns.keys, columns.whitened, columns.base_residuals):
            assert tensor.is_contiguous()
            assert tensor.data_ptr() % 64 == 0
    for one, other in zip(fold(problem.batches, Memory.joint), fold(elsewhere, Memory.joint), strict=True):
        assert torch.equal(one.left, other.left)
        assert torch.equal(one.right, other.right)


def test_materialise_sums_in_ledger_order_and_keeps_negative_zeros() -> None:
    problem = make_problem(7)
    base = problem.weight.float()
    base[0, 0] = -0.0
    pairs = fold(problem.batches, Memory.batch, math.inf)
    expected = ((base.double() + pairs[0].dense()) + pairs[1].dense()) + pairs[2].dense()
    assert torch.equal(materialise(base, pairs), expected)
    untouched = materialise(base, [Pair.empty(D_OUT, D_IN)])
    assert untouched.dtype == torch.float64
    assert torch.equal(untouched.float().view(torch.int32), base.view(torch.int32))


# ---- what is refused ----------------------------------------------------------------------------------------


def near_duplicates(gap: float, ridge: float) -> Problem:
    """Four facts of which the last has nearly (1 - cos = gap) or, with gap 0, exactly the key of the second."""
    problem = make_problem(8, (4,), ridge)
    metric = torch.linalg.inv(problem.moment)
    keys = problem.whole.keys.clone()
    one, other = keys[:, 1], keys[:, 3]
    one = one / (one @ metric @ one).sqrt()
    other = other - one * (one @ metric @ other)
    other = other / (other @ metric @ other).sqrt()
    keys[:, 1] = one
    keys[:, 3] = (1 - gap) * one + math.sqrt(1 - (1 - gap) ** 2) * other
    columns = problem.columns(keys, problem.whole.base_residuals, problem.whole.ridge)
    return Problem(problem.weight, problem.moment, [columns])


@MEMORIES
def test_near_duplicate_keys_are_refused_until_a_ridge_heals_them(memory: Memory) -> None:
    with pytest.raises(SolveError, match=r"amplified .*'fact-3'.*ridge of about.*'fact-1', whitened cosine 0\.99999"):
        fold(near_duplicates(3e-9, 0.0).batches, memory)
    fold(near_duplicates(3e-9, 0.0).batches, memory, amplification_limit=math.inf)
    fold(near_duplicates(3e-9, 0.1).batches, memory)


@MEMORIES
def test_equal_keys_are_refused_until_a_ridge_heals_them(memory: Memory) -> None:
    with pytest.raises(SolveError, match=r"singular at 'fact-3'\..*'fact-1', whitened cosine 1\.000000000"):
        fold(near_duplicates(0.0, 0.0).batches, memory)
    fold(near_duplicates(0.0, 0.1).batches, memory)


@MEMORIES
@law
@given(seed=SEEDS, size=st.sampled_from([0.0, 1e-17, 1e-16, 1e-15, 1e-14]))
def test_the_last_bits_of_a_key_do_not_choose_whom_a_refusal_names(memory: Memory, seed: int, size: float) -> None:
    """Three equal keys, and one that is the sum of two others, as another library's sums would round them."""
    problem = make_problem(seed, (6,), ridge=0.0)
    keys = problem.whole.keys.clone()
    keys[:, 2] = keys[:, 3] = keys[:, 0]
    keys[:, 5] = keys[:, 1] + keys[:, 4]
    noise = torch.randn(keys.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rounded = keys * (1 + size * noise)
    with pytest.raises(SolveError) as refusal:
        fold([problem.columns(rounded, problem.whole.base_residuals, problem.whole.ridge)], memory)
    told = str(refusal.value)
    assert "singular at 'fact-2'. " in told and "is that of 'fact-0', whitened cosine 1.000000000" in told
    kept = [0, 1, 4, 5]
    columns = problem.columns(rounded[:, kept], problem.whole.base_residuals[:, kept], problem.whole.ridge[kept])
    with pytest.raises(SolveError, match="singular at 'fact-3'"):
        fold([columns], memory)


def test_joint_memory_refuses_a_key_that_an_earlier_batch_holds() -> None:
    columns = near_duplicates(3e-9, 0.0).whole
    batches = [columns.take([0, 1, 2]), columns.take([3])]
    with pytest.raises(SolveError, match=r"'fact-3'.*alone in its batch"):
        fold(batches, Memory.joint)
    fold(batches, Memory.batch)


def test_the_advised_ridge_heals() -> None:
    problem = near_duplicates(3e-9, 0.0)
    with pytest.raises(SolveError) as refusal:
        fold(problem.batches, Memory.joint)
    advised = float(str(refusal.value).split("ridge of about ")[1].split(",")[0])
    whole = problem.whole
    healed = Columns(whole.keys, whole.whitened, whole.base_residuals, whole.ridge + advised, whole.names)
    fold([healed], Memory.joint)


@pytest.mark.parametrize("size", [0.0, 1e-6, 0.01])
def test_a_fact_the_weights_nearly_hold_is_no_reason_to_refuse_a_batch(size: float) -> None:
    columns = make_problem(9, (3,), ridge=0.5).whole
    held = columns.base_residuals.clone()
    held[:, 2] *= size
    nearly = Columns(columns.keys, columns.whitened, held, columns.ridge, columns.names)
    assert fold([nearly], Memory.batch)[0].rank == 3
    if size == 0.0:
        assert fold([nearly.take([2])], Memory.batch)[0].dense().norm() == 0


def test_more_facts_than_dimensions_are_refused_with_ridge_zero() -> None:
    with pytest.raises(SolveError, match="ridge of about"):
        fold(make_problem(10, (D_IN + 1,), ridge=0.0).batches, Memory.batch)


def test_joint_memory_is_full_at_d_in_facts_with_ridge_zero_and_batch_memory_is_not() -> None:
    batches = make_problem(18, (6, 6, 3), ridge=0.0).batches
    fold(batches, Memory.batch, math.inf)
    fold(batches[:2], Memory.joint, math.inf)
    with pytest.raises(SolveError, match="ridge of about"):
        fold(batches, Memory.joint)


def test_whitened_keys_of_another_metric_are_refused() -> None:
    columns = make_problem(11, (4,), ridge=0.0).whole
    other = make_problem(12, (4,), ridge=0.0)
    mixed = columns.whitened.clone()
    mixed[:, 2] = torch.linalg.solve(other.moment, columns.keys[:, 2])
    with pytest.raises(SolveError, match="relative residual"):
        append(
            Columns(columns.keys, mixed, columns.base_residuals, columns.ridge, columns.names),
            columns.nothing(),
            Memory.batch,
        )


@pytest.mark.parametrize("field", ["keys", "whitened", "base_residuals", "ridge"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_non_finite_columns_are_refused_by_name(field: str, poison: float) -> None:
    columns = make_problem(13, (3,)).whole
    fields = {name: getattr(columns, name).clone() for name in ("keys", "whitened", "base_residuals", "ridge")}
    fields[field][..., 1] = poison
    with pytest.raises(SolveError, match=rf"{field} of 'fact-1' hold NaN or infinity"):
        Columns(**fields, names=columns.names)


def test_overflow_inside_the_solve_is_refused() -> None:
    columns = make_problem(14, (3,)).whole
    with pytest.raises(SolveError):
        fold(
            [
                Columns(
                    columns.keys * 1e200, columns.whitened * 1e200, columns.base_residuals, columns.ridge, columns.names
                )
            ],
            Memory.batch,
        )


def test_wrong_shapes_types_and_ridges_are_refused() -> None:
    columns = make_problem(15, (3,)).whole
    keys, whitened, residuals, ridge, names = (
        columns.keys,
        columns.whitened,
        columns.base_residuals,
        columns.ridge,
        columns.names,
    )
    for wrong in (
        (keys[:, :2], whitened, residuals, ridge, names),
        (keys, whitened[:-1], residuals, ridge, names),
        (keys, whitened, residuals.float(), ridge, names),
        (keys, whitened, residuals, ridge[:2], names),
        (keys, whitened, residuals, ridge - 100, names),
        (keys, whitened, residuals, ridge, names[:2]),
    ):
        with pytest.raises(SolveError):
            Columns(*wrong)
    with pytest.raises(SolveError):
        Pair(residuals, keys[:, :2])


def test_columns_are_taken_by_position_and_by_mask() -> None:
    columns = make_problem(16, (4,)).whole
    assert columns.take([2, 0]).names == ("fact-2", "fact-0")
    assert columns.take([False, True, False, True]).names == ("fact-1", "fact-3")
    assert torch.equal(columns.take(torch.tensor([False, True, False, True])).keys, columns.keys[:, [1, 3]])
    assert len(columns.take([])) == 0
