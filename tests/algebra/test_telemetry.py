"""What the telemetry reads off columns and pairs, against brute force on dense float64 matrices."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric, SecondMoment
from lifelong_edit.algebra.system import Columns, Memory, Pair, fold, materialise, whole_system
from lifelong_edit.algebra.telemetry import (
    BaseSize,
    Collision,
    Telemetry,
    collisions,
    largest_first,
    residual_parts,
    singular_values,
    telemetry,
)
from lifelong_edit.errors import SolveError

from .problems import D_IN, D_OUT, Problem, assert_same, make_problem

MEMORIES = pytest.mark.parametrize("memory", list(Memory))
SEEDS = st.integers(0, 10_000)
SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple).filter(lambda sizes: 1 <= sum(sizes) <= 11)
RIDGES = st.sampled_from([None, None, 0.0, 0.3])  # None mixes ridges, zero among them
law = settings(max_examples=40, derandomize=True)


def slots(columns: Columns) -> list[str]:
    return [f"slot of {name}" for name in columns.names]


def base_size(problem: Problem) -> BaseSize:
    return BaseSize.of(problem.weight, Metric.from_moment(SecondMoment(problem.moment, 1), 0.0))


def seen(problem: Problem, memory: Memory, pairs: list[Pair] | None = None) -> Telemetry:
    pairs = fold(problem.batches, memory, math.inf) if pairs is None else pairs
    return telemetry(problem.batches, pairs, memory, slots(problem.whole), base_size(problem))


def residuals(problem: Problem, pairs: list[Pair]) -> Tensor:
    return problem.values - materialise(problem.weight, pairs) @ problem.whole.keys


def with_residuals(problem: Problem, wanted: Tensor) -> Problem:
    parts = wanted.split([len(b) for b in problem.batches], dim=1)
    batches = [
        Columns(b.keys, b.whitened, part, b.ridge, b.names) for b, part in zip(problem.batches, parts, strict=True)
    ]
    return Problem(problem.weight, problem.moment, batches)


# ---- what is still missing, and what is held ----------------------------------------------------------------


@MEMORIES
@law
@given(seed=SEEDS, sizes=SIZES, ridge=RIDGES)
def test_the_predicted_residual_is_that_of_the_dense_weights(
    memory: Memory, seed: int, sizes: tuple[int, ...], ridge: float | None
) -> None:
    problem = make_problem(seed, sizes, ridge)
    found, left = seen(problem, memory), residuals(problem, fold(problem.batches, memory, math.inf)).norm(dim=0)
    asked = (problem.values - problem.weight @ problem.whole.keys).norm(dim=0)
    assert (found.missing - left).norm() <= 1e-9 * asked.norm()
    assert (found.residual - left / asked).norm() <= 1e-9
    assert found.sizes == sizes
    if ridge == 0.0 and memory == Memory.joint:
        assert found.residual.max() < 1e-6


@MEMORIES
@law
@given(seed=SEEDS, sizes=SIZES, ridge=RIDGES)
def test_leverage_is_the_diagonal_of_the_hat_matrix(
    memory: Memory, seed: int, sizes: tuple[int, ...], ridge: float | None
) -> None:
    problem = make_problem(seed, sizes, ridge)
    gram = problem.whole.keys.T @ torch.linalg.inv(problem.moment) @ problem.whole.keys
    hat = torch.linalg.inv(whole_system(problem.batches, memory)) @ gram
    found = seen(problem, memory)
    assert_same(found.leverage, hat.diagonal(), 1e-7)
    assert found.capacity == pytest.approx(float(hat.trace()) / D_IN, rel=1e-7)
    if memory == Memory.joint:
        assert found.leverage.min() >= -1e-9 and found.leverage.max() <= 1 + 1e-9
        assert found.capacity <= 1 + 1e-9


@MEMORIES
@law
@given(seed=SEEDS, position=st.integers(0, 8))
def test_leverage_is_what_the_weights_hold_of_a_lone_residual(memory: Memory, seed: int, position: int) -> None:
    """All keys as they are, but only one fact asks for anything."""
    problem = make_problem(seed)
    alone = torch.zeros_like(problem.whole.base_residuals)
    alone[:, position] = problem.whole.base_residuals[:, position]
    pairs = fold(with_residuals(problem, alone).batches, memory, math.inf)
    held = Pair.concatenate(pairs).dense() @ problem.whole.keys[:, position]
    expected = seen(problem, memory).leverage[position] * alone[:, position]
    assert (held - expected).norm() <= 1e-8 * alone.norm()


@MEMORIES
def test_a_lone_fact_is_written_by_the_published_share(memory: Memory) -> None:
    problem = make_problem(1, (1,), ridge=3.0)
    mass = float(problem.whole.keys.T @ torch.linalg.inv(problem.moment) @ problem.whole.keys)
    found = seen(problem, memory)
    assert found.leverage.item() == pytest.approx(mass / (mass + 3.0))
    assert found.residual.item() == pytest.approx(3.0 / (mass + 3.0))


def test_leverage_in_batch_memory_may_leave_the_unit_interval() -> None:
    """A later batch takes back what leaked onto its own keys, whichever way that moves an older fact."""
    assert seen(make_problem(48, (8, 5), ridge=0.0), Memory.batch).leverage.min() < -0.05
    assert seen(make_problem(37, (8, 5), ridge=0.0), Memory.batch).leverage.max() > 1.3


# ---- who did it ---------------------------------------------------------------------------------------------


@MEMORIES
@law
@given(seed=SEEDS, sizes=SIZES, ridge=RIDGES)
def test_every_batch_answers_for_what_its_delta_does_to_every_key(
    memory: Memory, seed: int, sizes: tuple[int, ...], ridge: float | None
) -> None:
    problem = make_problem(seed, sizes, ridge)
    pairs, asked = fold(problem.batches, memory, math.inf), problem.whole.base_residuals
    found = seen(problem, memory)
    effects = torch.stack([pair.dense() @ problem.whole.keys for pair in pairs])  # [batches, d_out, n]
    assert_same(found.moved, effects.norm(dim=1) / asked.norm(dim=0))
    along = (effects * asked).sum(dim=1) / asked.square().sum(dim=0)  # [batches, n]
    assert (found.written - along).norm() <= 1e-9 * found.moved.norm()
    left = (residuals(problem, pairs) * asked).sum(dim=0) / asked.square().sum(dim=0)
    assert (found.written.sum(dim=0) - (1 - left)).norm() <= 1e-9 * found.moved.norm()
    assert (found.written.abs() <= found.moved * (1 + 1e-9) + 1e-12).all()


@MEMORIES
@law
@given(seed=SEEDS, sizes=SIZES)
def test_interference_is_the_mean_over_the_columns_of_a_batch(
    memory: Memory, seed: int, sizes: tuple[int, ...]
) -> None:
    found = seen(make_problem(seed, sizes), memory)
    assert found.interference.shape == (len(sizes), len(sizes))
    start = 0
    for old, size in enumerate(sizes):
        for new in range(len(sizes)):
            part = found.moved[new, start : start + size]
            if size:
                assert found.interference[new, old].item() == pytest.approx(sum(part.tolist()) / size)
            else:
                assert found.interference[new, old].isnan()
        start += size


@MEMORIES
@law
@given(seed=SEEDS, sizes=SIZES, ridge=RIDGES, data=st.data())
def test_the_parts_of_a_residual_sum_to_it(
    memory: Memory, seed: int, sizes: tuple[int, ...], ridge: float | None, data: st.DataObject
) -> None:
    problem = make_problem(seed, sizes, ridge)
    position = data.draw(st.integers(0, sum(sizes) - 1))
    own = next(t for t in range(len(sizes)) if sum(sizes[: t + 1]) > position)
    pairs = fold(problem.batches, memory, math.inf)
    parts, size = residual_parts(problem.batches, pairs, position), problem.whole.base_residuals.norm()
    assert (parts.sum(dim=1) - residuals(problem, pairs)[:, position]).norm() <= 1e-9 * size
    assert (parts[:, own] - residuals(problem, pairs[: own + 1])[:, position]).norm() <= 1e-9 * size
    assert torch.equal(parts[:, :own], torch.zeros(D_OUT, own, dtype=torch.float64))
    for later in range(own + 1, len(sizes)):
        effect = pairs[later].dense() @ problem.whole.keys[:, position]
        assert (parts[:, later] + effect).norm() <= 1e-9 * size


def test_the_batch_that_overwrote_a_fact_is_named() -> None:
    """Batch 2 gives nearly the key of fact 0 another value; batches 1 and 3 leave that key alone."""
    problem = make_problem(2, (2, 2, 2, 2), ridge=0.0)
    keys, residual = problem.whole.keys.clone(), problem.whole.base_residuals
    key, white = keys[:, :1], problem.whole.whitened[:, :1]
    keys[:, 2:] -= key @ (white.T @ keys[:, 2:]) / (white.T @ key)
    keys[:, 4] = keys[:, 0] + 0.01 * keys[:, 4]
    whole = problem.columns(keys, residual, problem.whole.ridge)
    batches = [whole.take(part.tolist()) for part in torch.arange(8).split(2)]
    pairs = fold(batches, Memory.batch, math.inf)
    found, parts = (
        seen(Problem(problem.weight, problem.moment, batches), Memory.batch, pairs),
        residual_parts(batches, pairs, 0),
    )
    assert found.residual[0] > 1.0
    assert found.moved[2, 0].item() == pytest.approx(found.residual[0].item())
    assert parts[:, [0, 1, 3]].norm() <= 1e-9 * residual.norm()
    spared = Problem(problem.weight, problem.moment, [batches[0], batches[1], batches[3]])
    assert seen(spared, Memory.batch).residual[0] <= 1e-9


@MEMORIES
def test_a_protected_fact_has_no_relative_figures_but_a_distance(memory: Memory) -> None:
    problem = make_problem(3)
    asked = problem.whole.base_residuals.clone()
    asked[:, 4] = 0.0
    protected = with_residuals(problem, asked)
    found, others = seen(protected, memory), torch.arange(9) != 4
    pairs = fold(protected.batches, memory, math.inf)
    assert found.missing[4].item() == pytest.approx(
        float((Pair.concatenate(pairs).dense() @ problem.whole.keys)[:, 4].norm())
    )
    for figures in (found.residual, found.moved, found.written):
        assert figures[..., 4].isnan().all()
        assert figures[..., others].isfinite().all()
    assert found.leverage.isfinite().all() and found.interference.isfinite().all()


# ---- the delta as a whole -----------------------------------------------------------------------------------


@MEMORIES
@law
@given(seed=SEEDS, sizes=SIZES, ridge=RIDGES)
def test_preservation_and_norm_are_those_of_the_dense_delta(
    memory: Memory, seed: int, sizes: tuple[int, ...], ridge: float | None
) -> None:
    problem = make_problem(seed, sizes, ridge)
    found, base = seen(problem, memory), problem.weight
    dense = Pair.concatenate(fold(problem.batches, memory, math.inf)).dense()
    loss = torch.trace(dense @ problem.moment @ dense.T) / torch.trace(base @ problem.moment @ base.T)
    assert found.preservation == pytest.approx(loss.item(), rel=1e-8)
    assert found.relative_norm == pytest.approx((dense.norm() / base.norm()).item(), rel=1e-9)


def test_a_shrunk_metric_measures_the_base_and_the_delta_alike() -> None:
    problem = make_problem(5)
    metric = Metric.from_moment(SecondMoment(problem.moment, 1), 0.2)
    whole = problem.whole
    columns = Columns(whole.keys, metric.whiten(whole.keys), whole.base_residuals, whole.ridge, whole.names)
    pairs = fold([columns], Memory.joint, math.inf)
    base = problem.weight.float()
    found = telemetry([columns], pairs, Memory.joint, slots(columns), BaseSize.of(base, metric))
    dense, base = pairs[0].dense(), base.double()
    loss = torch.trace(dense @ metric.matrix @ dense.T) / torch.trace(base @ metric.matrix @ base.T)
    assert found.preservation == pytest.approx(loss.item(), rel=1e-9)


@law
@given(seed=SEEDS, sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple), memory=st.sampled_from(Memory))
def test_the_spectrum_is_that_of_the_dense_delta(seed: int, sizes: tuple[int, ...], memory: Memory) -> None:
    """Up to more columns than either side of the weight has."""
    pairs = fold(make_problem(seed, sizes, ridge=0.5).batches, memory, math.inf)
    pair = Pair.concatenate(pairs)
    expected = torch.linalg.svdvals(pair.dense())
    values = singular_values(pair)
    assert values.shape == (min(sum(sizes), D_OUT),)
    assert (values - expected[: len(values)]).norm() <= 1e-10 * max(float(expected.norm()), 1e-300)
    turned = singular_values(Pair(pair.right, pair.left))
    assert (turned - values).norm() <= 1e-10 * max(float(expected.norm()), 1e-300)


@MEMORIES
def test_entropy_and_stable_rank_count_directions(memory: Memory) -> None:
    problem = make_problem(6)
    spectrum = seen(problem, memory).spectrum
    values = torch.linalg.svdvals(Pair.concatenate(fold(problem.batches, memory, math.inf)).dense())
    shares = (values.square() / values.square().sum()).tolist()
    assert spectrum.entropy == pytest.approx(-sum(p * math.log(p) for p in shares if p > 0))
    assert spectrum.stable_rank == pytest.approx(1 / shares[0])
    lone = seen(make_problem(6, (1,)), memory).spectrum
    assert lone.entropy == pytest.approx(0.0, abs=1e-12)
    assert lone.stable_rank == pytest.approx(1.0)


# ---- conditioning and collisions ----------------------------------------------------------------------------


@MEMORIES
@law
@given(seed=SEEDS, sizes=SIZES, ridge=RIDGES)
def test_the_condition_is_estimated_from_below(
    memory: Memory, seed: int, sizes: tuple[int, ...], ridge: float | None
) -> None:
    problem = make_problem(seed, sizes, ridge)
    system = whole_system(problem.batches, memory)
    exact, found = float(torch.linalg.cond(system)), seen(problem, memory)
    assert 0.7 * exact <= found.condition <= (1 + 1e-6) * exact
    last = sizes[-1]
    if not last:
        assert math.isnan(found.newest_condition)
        return
    inner = system[-last:, -last:]
    if memory == Memory.joint and sum(sizes) > last:
        earlier = system[:-last, :-last]
        inner = inner - system[-last:, :-last] @ torch.linalg.inv(earlier) @ system[:-last, -last:]
    assert found.newest_condition == pytest.approx(float(torch.linalg.cond(inner)), rel=1e-6)


def colliding() -> tuple[Problem, list[str]]:
    """Nine facts: 5 has nearly the key of 1, 8 nearly minus that of 3, 7 exactly that of 0 and its slot."""
    problem = make_problem(7, (3, 3, 3), ridge=1.0)
    keys = problem.whole.keys.clone()
    keys[:, 5] = 3.0 * keys[:, 1] + 0.03 * keys[:, 5]
    keys[:, 8] = -keys[:, 3] + 0.03 * keys[:, 8]
    keys[:, 7] = keys[:, 0]
    whole = problem.columns(keys, problem.whole.base_residuals, problem.whole.ridge)
    batches = [whole.take(part.tolist()) for part in torch.arange(9).split(3)]
    return Problem(problem.weight, problem.moment, batches), ["a", "b", "c", "d", "e", "f", "g", "a", "i"]


def test_collisions_are_the_pairs_of_different_slots_with_nearly_one_direction() -> None:
    problem, names = colliding()
    metric, keys = torch.linalg.inv(problem.moment), problem.whole.keys
    lengths = (keys.T @ metric @ keys).diagonal().sqrt()
    cosines = keys.T @ metric @ keys / (lengths[:, None] * lengths[None, :])
    for limit in (0.3, 0.99):
        expected = [
            (i, j, cosines[i, j].item())
            for j in range(9)
            for i in range(j)
            if abs(cosines[i, j]) > limit and names[i] != names[j]
        ]
        found = collisions(problem.whole, names, limit)
        assert [(c.earlier, c.later) for c in found] == [(i, j) for i, j, _ in expected]
        assert [c.cosine for c in found] == pytest.approx([cosine for *_, cosine in expected])
        late = collisions(problem.whole, names, limit, start=6)
        assert [(c.earlier, c.later) for c in late] == [(i, j) for i, j, _ in expected if j >= 6]
    assert [(c.earlier, c.later) for c in collisions(problem.whole, names)] == [(1, 5), (3, 8)]
    assert [(c.earlier, c.later) for c in collisions(problem.whole, list("abcdefghi"))] == [(1, 5), (0, 7), (3, 8)]


@MEMORIES
def test_a_commit_reports_the_collisions_of_its_newest_batch(memory: Memory) -> None:
    problem, names = colliding()
    pairs = fold(problem.batches, memory, math.inf)
    found = telemetry(problem.batches, pairs, memory, names, base_size(problem)).collisions
    assert [(c.earlier, c.later) for c in found] == [(3, 8)]
    assert isinstance(found[0], Collision) and found[0].cosine < -0.99
    assert telemetry(problem.batches, pairs, memory, names, base_size(problem), limit=0.9999).collisions == ()


# ---- edges --------------------------------------------------------------------------------------------------


@MEMORIES
@pytest.mark.parametrize("sizes", [(0,), (0, 0)])
def test_a_layer_without_columns_is_its_base(memory: Memory, sizes: tuple[int, ...]) -> None:
    found = seen(make_problem(8, sizes), memory)
    assert found.residual.shape == found.leverage.shape == found.missing.shape == (0,)
    assert found.moved.shape == found.written.shape == (len(sizes), 0)
    assert (found.capacity, found.preservation, found.relative_norm, found.spectrum.norm) == (0.0, 0.0, 0.0, 0.0)
    assert found.collisions == () and found.interference.isnan().all()
    for figure in (found.condition, found.newest_condition, found.spectrum.entropy, found.spectrum.stable_rank):
        assert math.isnan(figure)


@MEMORIES
def test_facts_that_ask_for_nothing_leave_the_base(memory: Memory) -> None:
    problem = make_problem(9)
    found = seen(with_residuals(problem, torch.zeros_like(problem.whole.base_residuals)), memory)
    assert found.missing.max() == 0.0 and found.preservation == 0.0 and found.relative_norm == 0.0
    assert math.isnan(found.spectrum.entropy) and math.isnan(found.spectrum.stable_rank)
    assert found.leverage.isfinite().all() and math.isfinite(found.condition)


def test_pairs_and_slots_of_other_columns_are_refused() -> None:
    problem = make_problem(10)
    pairs, names, size = fold(problem.batches, Memory.joint, math.inf), slots(problem.whole), base_size(problem)
    for batches, own_pairs, own_slots in (
        (problem.batches[:2], pairs, names),
        (problem.batches[::-1], pairs, names),
        (problem.batches, pairs, names[:-1]),
    ):
        with pytest.raises(SolveError, match="one slot a column"):
            telemetry(batches, own_pairs, Memory.joint, own_slots, size)


@MEMORIES
def test_a_singular_system_is_refused_by_name(memory: Memory) -> None:
    problem = make_problem(11, (3,), ridge=0.0)
    pairs = fold(problem.batches, memory, math.inf)
    keys = problem.whole.keys.clone()
    keys[:, 1:] = 0.0
    twice = Problem(
        problem.weight, problem.moment, [problem.columns(keys, problem.whole.base_residuals, problem.whole.ridge)]
    )
    with pytest.raises(SolveError, match=r"singular at 'fact-1'.*ridge"):
        seen(twice, memory, pairs)


def test_the_largest_is_first_and_equals_keep_their_order() -> None:
    assert largest_first({"a": 0.1, "b": 3.0, "c": -7.0, "d": 0.2}) == ["b", "d", "a", "c"]
    assert largest_first({"b": 0.0, "a": 0.0}) == ["b", "a"] and largest_first({}) == []


@given(st.lists(st.integers(-5, 5), max_size=12), st.sampled_from([1e-20, 1.0, 1e6]), st.randoms(use_true_random=False))
def test_rounding_changes_no_order(sizes: list[int], scale: float, noise: random.Random) -> None:
    exact = {place: size * scale for place, size in enumerate(sizes)}
    rounded = {place: size + noise.uniform(-1e-14, 1e-14) * scale for place, size in exact.items()}
    assert largest_first(exact) == sorted(exact, key=lambda place: -exact[place])
    if any(sizes):
        assert largest_first(rounded) == largest_first(exact)
