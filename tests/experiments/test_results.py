"""Ranks that agree, that are turned round, and that agree in part."""

from __future__ import annotations

import pytest

from results import spearman


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([1.0, 2.0, 9.0], [10.0, 20.0, 21.0], 1.0), ([1.0, 2.0, 3.0], [5.0, 4.0, 0.0], -1.0),
     ([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0], 0.6)],
)  # fmt: skip
def test_spearman(a: list[float], b: list[float], expected: float) -> None:
    assert spearman(a, b) == pytest.approx(expected)
