"""Retention read from measurements of single facts, against figures worked out by hand."""

from __future__ import annotations

from lifelong_edit.tracking.retention import (
    FactScore,
    ForgettingPoint,
    RetentionMatrix,
    first_forgotten,
    forgetting_curve,
    recovered,
)

# Two cohorts of two facts, written by entries 1 and 3; measured after 1, 3 and 5.
MEASURED = [
    FactScore(1, 1, "a", 1.0), FactScore(1, 1, "b", 1.0),
    FactScore(3, 1, "a", 0.0), FactScore(3, 1, "b", 1.0), FactScore(3, 3, "c", 1.0), FactScore(3, 3, "d", 0.0),
    FactScore(5, 1, "a", 1.0), FactScore(5, 1, "b", 0.0), FactScore(5, 3, "c", 0.0), FactScore(5, 3, "d", 0.0),
]  # fmt: skip


def test_a_cell_is_the_mean_over_the_facts_measured_then() -> None:
    matrix = RetentionMatrix.of(MEASURED)
    assert (matrix.cohorts, matrix.seqs) == ((1, 3), (1, 3, 5))
    assert matrix.values == {(1, 1): 1.0, (1, 3): 0.5, (1, 5): 0.5, (3, 3): 0.5, (3, 5): 0.0}
    assert matrix.curve(1) == [(1, 1.0), (3, 0.5), (5, 0.5)]


def test_at_apply_and_now_are_both_there() -> None:
    matrix = RetentionMatrix.of(MEASURED)
    assert (matrix.at_apply(1), matrix.now(1), matrix.at_apply(3), matrix.now(3)) == (1.0, 0.5, 0.5, 0.0)
    assert (matrix.at_apply(7), matrix.now(7)) == (None, None)


def test_average_retention_forgetting_and_half_life() -> None:
    matrix = RetentionMatrix.of(MEASURED)
    assert [matrix.average(seq) for seq in (1, 3, 5, 7)] == [1.0, 0.5, 0.25, None]
    assert matrix.forgetting() == 0.5  # both cohorts fell from their best by a half
    assert (matrix.half_life(1), matrix.half_life(3)) == (None, 5)
    assert RetentionMatrix.of([]).forgetting() is None


def test_a_fact_that_was_never_learnt_is_not_forgotten() -> None:
    assert first_forgotten(MEASURED) == {"a": 3, "b": 5, "c": 5}
    late = [FactScore(5, 1, "late", 1.0), FactScore(7, 1, "late", 0.0)]  # nobody looked right after its edit
    assert first_forgotten(late) == {}


def test_what_is_said_again_has_recovered() -> None:
    assert recovered(MEASURED) == ["a"]


def test_the_curve_counts_what_was_ever_forgotten() -> None:
    curve = forgetting_curve(MEASURED)
    assert curve == [ForgettingPoint(1, 2, 0), ForgettingPoint(3, 3, 1), ForgettingPoint(5, 3, 3)]
    assert [point.share for point in curve] == [0.0, 1 / 3, 1.0] and ForgettingPoint(0, 0, 0).share is None
