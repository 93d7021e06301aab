"""The second moment, its shrinkage, and the metric that refuses what it cannot whiten with."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric, RunningSecondMoment, SecondMoment
from lifelong_edit.errors import RequestError, SolveError

from .problems import assert_same

D = 20


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_eigenvalues(eigenvalues: Tensor) -> SecondMoment:
    basis = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues))).Q
    matrix = basis * eigenvalues @ basis.T
    return SecondMoment((matrix + matrix.T) / 2, 1000)


def of_condition(condition: float) -> SecondMoment:
    return with_eigenvalues(torch.logspace(0, -math.log10(condition), D, dtype=torch.float64))


def of_rank(rank: int) -> SecondMoment:
    factors = normal(D, rank)
    return SecondMoment(factors @ factors.T / rank, 1000)


@settings(max_examples=20, derandomize=True)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 50), max_size=3))
def test_running_accumulation_equals_one_shot_and_resumes(seed: int, cuts: list[int]) -> None:
    tokens = normal(50, D, seed=seed).float()
    edges = [0, *sorted(cuts), 50]
    running = RunningSecondMoment(D)
    for start, end in pairwise(edges):
        running.add(tokens[start:end])
        running = RunningSecondMoment(D, running.total, running.count)
    moment = running.value()
    assert moment.count == 50
    assert moment.matrix.dtype == torch.float64
    assert_same(moment.matrix, tokens.double().T @ tokens.double() / 50)


@pytest.mark.parametrize("bound", [0.5, 20.0])
def test_no_key_counts_for_more_mass_than_the_bound(bound: float) -> None:
    keys = torch.cat([normal(30, D), 1e4 * normal(2, D, seed=1), torch.zeros(1, D, dtype=torch.float64)])
    weighed = [min(1.0, bound / max(float(k @ k), 1e-30)) * torch.outer(k, k) for k in keys]
    whole, parts = RunningSecondMoment(D, bound=bound), RunningSecondMoment(D, bound=bound)
    whole.add(keys)
    for key in keys.flip(0):  # in another order, and resumed after each
        parts.add(key[None])
        parts = RunningSecondMoment(D, parts.total, parts.count, parts.bound)
    for moment in (whole.value(), parts.value()):
        assert moment.count == len(keys) and moment.matrix.trace() <= bound
        torch.testing.assert_close(moment.matrix, torch.stack(weighed).mean(dim=0), rtol=1e-12, atol=1e-14)


def test_resuming_leaves_the_given_state_alone() -> None:
    state = torch.eye(D, dtype=torch.float64)
    RunningSecondMoment(D, state, 1).add(normal(3, D).bfloat16())
    assert torch.equal(state, torch.eye(D, dtype=torch.float64))


def test_an_accumulation_refuses_nothing_nan_and_wrong_states() -> None:
    running = RunningSecondMoment(D)
    with pytest.raises(SolveError, match="no tokens"):
        running.value()
    for poison in (math.nan, math.inf):
        with pytest.raises(SolveError, match="NaN or infinity"):
            running.add(torch.full((2, D), poison))
    assert running.count == 0
    with pytest.raises(SolveError, match="cannot resume"):
        RunningSecondMoment(D, torch.zeros(D, D + 1), 3)


@pytest.mark.parametrize("shrinkage", [0.0, 0.01, 0.5, 1.0])
def test_shrinkage_and_calibration(shrinkage: float) -> None:
    tokens = normal(100, D)
    moment = SecondMoment(tokens.T @ tokens / 100, 100)
    metric = Metric.from_moment(moment, shrinkage)
    eye = torch.eye(D, dtype=torch.float64)
    assert_same(metric.matrix, (1 - shrinkage) * moment.matrix + shrinkage * moment.matrix.trace() / D * eye)
    assert_same(metric.factor @ metric.factor.T, metric.matrix)
    mass = (tokens.T * metric.whiten(tokens.T)).sum(dim=0)  # k' C_s^-1 k  [tokens]
    assert metric.mean_key_mass == pytest.approx(mass.mean().item(), rel=1e-9)
    assert metric.condition == pytest.approx(torch.linalg.cond(metric.matrix).item(), rel=0.1)


def test_the_moment_itself_is_left_alone() -> None:
    moment = of_condition(1e3)
    copy = moment.matrix.clone()
    Metric.from_moment(moment, 0.1)
    assert torch.equal(moment.matrix, copy)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e8, 1e10])
def test_whitening_solves_and_knows_its_condition(condition: float) -> None:
    moment = of_condition(condition)
    metric = Metric.from_moment(moment, 0.0)
    keys = moment.matrix @ normal(D, 6)
    whitened = metric.whiten(keys.float())
    assert whitened.dtype == torch.float64
    assert_same(moment.matrix @ whitened, keys.float().double(), 1e-6)
    assert metric.condition == pytest.approx(condition, rel=0.1)


@pytest.mark.parametrize("condition", [1e13, 1e15, 1e16, 1e17, 1e18])
def test_ill_conditioned_moments_are_refused_until_the_advised_shrinkage_heals_them(condition: float) -> None:
    moment = of_condition(condition)
    with pytest.raises(SolveError, match=r"condition about .* at shrinkage 0,.*try shrinkage") as refusal:
        Metric.from_moment(moment, 0.0)
    advised = float(re.findall(r"try shrinkage ([\d.e+-]+)\.", str(refusal.value))[0])
    assert Metric.from_moment(moment, advised).condition <= 1.2e8


@pytest.mark.parametrize("rank", [D - 1, int(0.8 * D), 1])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rank_deficient_moments_are_refused(rank: int, scale: float) -> None:
    moment = of_rank(rank)
    with pytest.raises(SolveError, match="ill-conditioned"):
        Metric.from_moment(SecondMoment(moment.matrix * scale, moment.count), 0.0)
    Metric.from_moment(moment, 1e-3)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_non_finite_moments_and_keys_are_refused(poison: float) -> None:
    matrix = of_condition(10.0).matrix.clone()
    matrix[2, 2] = poison
    with pytest.raises(SolveError, match="NaN or infinity"):
        Metric.from_moment(SecondMoment(matrix, 10), 0.1)
    keys = normal(D, 4)
    keys[3, 1] = poison
    with pytest.raises(SolveError, match="column 1"):
        Metric.from_moment(of_condition(10.0), 0.0).whiten(keys)


def test_what_is_no_second_moment_is_refused() -> None:
    good = of_condition(10.0).matrix
    skewed = good.clone()
    skewed[0, 1] += 1e-3
    for matrix in (good[:-1], skewed, torch.zeros(D, D, dtype=torch.float64), -good):
        with pytest.raises(SolveError):
            Metric.from_moment(SecondMoment(matrix, 10), 0.0)
    for shrinkage in (-0.1, 1.1, math.nan):
        with pytest.raises(RequestError):
            Metric.from_moment(SecondMoment(good, 10), shrinkage)


def test_no_global_randomness_is_drawn() -> None:
    state = torch.get_rng_state()
    first = Metric.from_moment(of_condition(1e4), 0.0)
    assert torch.equal(state, torch.get_rng_state())
    assert Metric.from_moment(of_condition(1e4), 0.0).condition == first.condition
