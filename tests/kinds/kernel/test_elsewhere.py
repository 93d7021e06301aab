"""The kernel's state is folded where the weights lie; only digests and records bring numbers to the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lifelong_edit.algebra.second_moment import Metric, SecondMoment
from lifelong_edit.algebra.system import Columns, Memory
from lifelong_edit.algebra.telemetry import BaseSize
from lifelong_edit.kinds.kernel.state import Batches, EditedLayer, KernelState, Placed, record_of, survived
from lifelong_edit.kinds.kernel.telemetry import read_out
from lifelong_edit.store import Column
from tests.algebra.elsewhere import assert_computed_there, place
from tests.algebra.problems import Problem, make_problem
from tests.algebra.test_elsewhere import moved

NAME, SIZES = "mlp.weight", (3, 2, 4)
WHOLE: Batches = {
    seq: tuple(Placed(column, column) for i in range(size) for column in [Column(seq, i, f"{seq}-{i}", frozenset())])
    for seq, size in enumerate(SIZES, start=1)
}
VALUE = Column(4, 0, "1-0", frozenset())  # another value for the first slot


def folded(problem: Problem, memory: Memory, batches: Batches = WHOLE) -> KernelState:
    """The state in which these batches stand."""
    first = problem.batches[0].take([0])
    other = replace(first, base_residuals=first.base_residuals * 2.0)
    entries = dict(enumerate([*problem.batches, other], start=1))

    def read(columns: Sequence[Column]) -> Columns:
        return Columns.concatenate([entries[column.seq].take([column.index]) for column in columns])

    unedited = KernelState({0: EditedLayer.unedited(NAME, problem.weight, memory)})
    return unedited.becoming(batches, lambda _: read, amplification_limit=1e6)


def delta(problem: Problem, memory: Memory, batches: Batches) -> Any:
    return folded(problem, memory).delta_to(folded(problem, memory, batches), amplification_limit=1e6)


def left_out(problem: Problem, memory: Memory) -> KernelState:
    return folded(problem, memory).leaving_out(lambda _, seq: seq == 2)


def telemetry(problem: Problem, memory: Memory) -> Any:
    size = BaseSize.of(problem.weight, Metric.from_moment(SecondMoment(problem.moment, 1), 0.1))
    return read_out(folded(problem, memory), {0: size})


def lost(problem: Problem, memory: Memory) -> float:
    """What a cast to float32 left of the edits."""
    base, weight = problem.weight, folded(problem, memory).weights[0]
    return survived(base, base, weight, base.float(), weight.float())


COMPUTED: dict[str, Callable[[Problem, Memory], Any]] = {
    "weights": lambda p, memory: folded(p, memory).weights,
    "delta of a batch": lambda p, memory: delta(p, memory, {**WHOLE, 5: (Placed(VALUE, VALUE),)}),
    "delta of a removal": lambda p, memory: delta(p, memory, {1: WHOLE[1][1:], 3: WHOLE[3]}),
    "delta of another value": lambda p, m: delta(p, m, {**WHOLE, 1: (Placed(WHOLE[1][0].place, VALUE), *WHOLE[1][1:])}),
    "delta of other batches": lambda p, memory: delta(p, memory, {9: (*WHOLE[1], *WHOLE[2], *WHOLE[3])}),
    "weights without a batch": lambda p, memory: left_out(p, memory).weights,
    "telemetry": telemetry,
    "digest": lambda p, memory: folded(p, memory).digest,
    "away": lambda p, memory: folded(p, memory).layers[0].away(p.weight),
    "lost in a cast": lost,
    "record": lambda p, m: record_of(delta(p, m, {}), {NAME: folded(p, m).layers[0].whole}, ()).to_bytes(),
}


@pytest.mark.parametrize("memory", list(Memory))
@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)
def test_a_state_is_computed_where_the_weights_lie(compute: Callable[[Problem, Memory], Any], memory: Memory) -> None:
    problem = make_problem(0, SIZES, ridge=0.3)
    with place():
        there = compute(moved(problem), memory)
    assert_computed_there(compute(problem, memory), there)
