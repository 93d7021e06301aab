"""The risk of each fact against what it is made of, column by column."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lifelong_edit.algebra.system import Columns, Memory, Pair, fold
from lifelong_edit.algebra.telemetry import ACROSS, NEEDED, BaseSize, risks, telemetry

SIZES = (2, 3, 1)


def drawn(sizes: tuple[int, ...], scale: float = 1.0) -> list[Columns]:
    """Batches of random columns; keys are their own whitened keys."""
    generator = torch.Generator().manual_seed(3)
    batches = []
    for number, size in enumerate(sizes):
        keys, residuals = (torch.randn(rows, size, generator=generator, dtype=torch.float64) for rows in (9, 7))
        ridge = torch.full((size,), 0.3, dtype=torch.float64)
        batches.append(
            Columns(keys, keys.clone(), scale * residuals, ridge, tuple(f"{number} {i}" for i in range(size)))
        )
    return batches


def found_for(batches: list[Columns], memory: Memory) -> tuple[Tensor, list[Pair]]:
    """The risks, and the pairs they were read from."""
    pairs = fold(batches, memory, float("inf"))
    slots = [name for columns in batches for name in columns.names]
    return risks(telemetry(batches, pairs, memory, slots, BaseSize(1.0, 1.0))), pairs


@pytest.mark.parametrize("memory", list(Memory))
def test_risk_is_what_was_held_after_the_own_batch_less_what_is_held_now(memory: Memory) -> None:
    batches = drawn(SIZES)
    (found, pairs), place = found_for(batches, memory), 0
    for number, columns in enumerate(batches):
        for i in range(len(columns)):
            key, asked = columns.keys[:, i], columns.base_residuals[:, i]
            now, own = (sum(p.dense() @ key for p in some) for some in (pairs, pairs[: number + 1]))
            held, at_own = (one @ asked / (asked @ asked) for one in (now, own))
            across = (now - held * asked).norm() / asked.norm()
            assert torch.isclose(found[place], NEEDED * at_own - held + ACROSS * across, rtol=1e-10, atol=1e-12)
            place += 1
    assert torch.allclose(found_for(drawn(SIZES, scale=4.0), memory)[0], found)


def test_a_fact_that_nothing_disturbed_has_none_and_a_protected_one_is_no_number() -> None:
    alone = drawn((1,))
    assert float(found_for(alone, Memory.batch)[0]) < 0
    protected = [Columns(c.keys, c.whitened, torch.zeros_like(c.base_residuals), c.ridge, c.names) for c in alone]
    assert found_for(protected, Memory.batch)[0].isnan().all()


def test_a_fact_whose_key_is_taken_by_another_is_at_risk() -> None:
    first = drawn((1,))[0]
    second = Columns(first.keys, first.whitened, -first.base_residuals, first.ridge, ("other",))
    found, _ = found_for([first, second], Memory.batch)
    assert found[0] > 0 > found[1]
