"""Health: bands, the worst sign first, and how many edits are left at the present rate."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong_edit.errors import RequestError
from lifelong_edit.tracking.health import SIGNS, Band, HealthLimits, Limit, Reading, judge

LIMITS = HealthLimits(recall=Limit(0.1, 0.2), perplexity=Limit(0.5, 1.0))


def test_every_sign_has_a_meaning() -> None:
    assert set(HealthLimits().to_dict()) == set(SIGNS)


def test_a_limit_parts_three_bands() -> None:
    limit = Limit(0.1, 0.2)
    assert [limit.band(v) for v in (-1.0, 0.0, 0.0999, 0.1, 0.1999, 0.2, 9.0, math.inf, math.nan)] == [
        Band.green, Band.green, Band.green, Band.amber, Band.amber, Band.red, Band.red, Band.red, Band.red,
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)], ids=str)
def test_a_limit_that_parts_nothing_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(RequestError, match="amber"):
        Limit(*wrong)


def test_limits_come_back_from_json_and_an_unknown_sign_is_named() -> None:
    assert HealthLimits.from_dict(LIMITS.to_dict()) == LIMITS
    with pytest.raises(RequestError, match=r"'pulse'.*recall"):
        HealthLimits.from_dict({"pulse": {"amber": 1, "red": 2}})


def test_the_worst_sign_decides_and_comes_first() -> None:
    health = judge([Reading(10, {"recall": 0.05, "perplexity": 0.6})], LIMITS)
    assert [(sign.name, sign.band) for sign in health.signs] == [("perplexity", Band.amber), ("recall", Band.green)]
    assert health.band == Band.amber and health.edits_left is None
    assert judge([], LIMITS).band == Band.green


def test_a_sign_that_the_last_reading_lacks_keeps_its_newest_value() -> None:
    health = judge([Reading(10, {"recall": 0.3}), Reading(20, {"perplexity": 0.1})], LIMITS)
    assert health.band == Band.red


@given(st.integers(1, 50), st.floats(0.001, 0.01), st.integers(1, 15))
def test_a_sign_that_grows_evenly_meets_red_when_it_said(step: int, rate: float, count: int) -> None:
    """value = rate * facts."""
    readings = [Reading(step * n, {"recall": rate * step * n / 50}) for n in range(1, count + 2)]
    (sign,) = judge(readings, HealthLimits()).signs
    expected = max(0.0, (sign.limit.red - sign.value) / (rate / 50))
    assert sign.edits_left is not None and abs(sign.edits_left - expected) <= 1


def test_a_sign_that_falls_or_was_read_once_leaves_no_forecast() -> None:
    falling = judge([Reading(10, {"recall": 0.2}), Reading(20, {"recall": 0.1})], LIMITS)
    again = judge([Reading(10, {"recall": 0.1}), Reading(10, {"recall": 0.2})], LIMITS)
    assert falling.edits_left is None and again.edits_left is None


def test_limits_leave_room_for_the_noise_of_a_model() -> None:
    wide = LIMITS.widened({"recall": 0.1, "perplexity": 0.01})
    assert (wide.recall.amber, wide.recall.red) == pytest.approx((0.3, 0.6)) and wide.perplexity == LIMITS.perplexity
