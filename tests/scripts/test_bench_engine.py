"""Two checkouts are measured by turns, and the exit status tells when this one is slower."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import bench_engine
from bench_engine import FIGURES, HERE, Figures


@pytest.mark.parametrize(("slower", "status"), [(0.9, 0), (1.04, 0), (1.06, 1)])
def test_the_status_tells_when_a_figure_is_slower_here(
    slower: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns: list[Path] = []

    def measured_in(checkout: Path) -> Figures:
        turns.append(checkout)
        factor, drift = (slower if checkout == HERE else 1.0), (len(turns) + 1) // 2  # as on a machine that slows down
        return {figure: (drift * (factor if figure == "revert" else 1.0), 5.0) for figure in FIGURES}

    monkeypatch.setattr(bench_engine, "measured_in", measured_in)
    monkeypatch.setattr(sys, "argv", ["bench_engine", "--against", str(tmp_path), "--pairs", "3"])
    assert bench_engine.main() == status
    assert [turns.count(side) for side in (HERE, tmp_path)] == [3, 3] and turns[0] != turns[2] == turns[1]
    assert f"{slower:.3f}" in capsys.readouterr().out
