"""The risk of each fact against what it is made of, column by column."""

from __future__ import annotations

import torch

from lifelong_edit.algebra.columns import Columns, Pair
from lifelong_edit.algebra.risk import ACROSS, risks


def columns(count: int, generator: torch.Generator) -> Columns:
    keys, residuals = (torch.randn(rows, count, generator=generator, dtype=torch.float64) for rows in (9, 7))
    names = tuple(f"fact {i}" for i in range(count))
    return Columns(keys, keys.clone(), residuals, torch.zeros(count, dtype=torch.float64), names)


def test_risk_is_the_missing_part_along_the_wanted_change_and_half_of_what_lies_across() -> None:
    generator = torch.Generator().manual_seed(3)
    own = columns(5, generator)
    delta = Pair(*(torch.randn(rows, 4, generator=generator, dtype=torch.float64) for rows in (7, 9)))
    found = risks(own, delta)
    for i in range(5):
        asked = own.base_residuals[:, i]
        missing = asked - delta.dense() @ own.keys[:, i]
        along = missing @ asked / (asked @ asked)
        across = (missing - along * asked).norm() / asked.norm()
        assert torch.isclose(found[i], along + ACROSS * across, rtol=1e-12)


def test_a_fact_that_is_written_has_none_one_that_is_not_has_one_and_a_protected_one_is_no_number() -> None:
    own = columns(3, torch.Generator().manual_seed(4))
    protected = Columns(own.keys, own.whitened, torch.zeros_like(own.base_residuals), own.ridge, own.names)
    nothing = own.nothing()
    assert torch.allclose(risks(own, nothing), torch.ones(3, dtype=torch.float64))
    assert risks(protected, nothing).isnan().all()
    exact = torch.linalg.lstsq(own.keys.T, own.base_residuals.T).solution.T  # D K = R_0
    assert risks(own, Pair(exact, torch.eye(9, dtype=torch.float64))).abs().max() < 1e-6
