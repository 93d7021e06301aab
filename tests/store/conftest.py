"""A ledger's ordinary contents, for the tests of the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lifelong_edit.store import KernelPart, KernelRecord
from tests.store.stores import COMMON

Body = dict[str, Any]


@pytest.fixture
def edit_body() -> Callable[..., Body]:
    """The body of an edit that writes these facts."""

    def body(*ids: str) -> Body:
        request = {"prompt": "{} lives in", "subject": "Ada", "target_new": "Tarsis"}
        facts = [{"id": id, "slot": f"slot-{id}", "request": request} for id in ids]
        return {**COMMON, "facts": facts, "method": "emmet", "hyperparameters": {"ridge": 0.5}, "weights": "a" * 64}

    return body


@pytest.fixture
def revert_body() -> Callable[..., Body]:
    """The body of a revert of these facts."""
    return lambda *ids: {**COMMON, "facts": list(ids), "weights": "b" * 64}


@pytest.fixture
def edit_record() -> KernelRecord:
    """Two facts in one weight of shape [3, 4]."""
    rng = np.random.default_rng(0)
    shapes = {"left": (3, 2), "right": (4, 2), "keys": (4, 2), "whitened": (4, 2), "base_residuals": (3, 2)}
    part = KernelPart(**{name: rng.normal(size=shape) for name, shape in shapes.items()}, ridge=np.ones(2))
    return KernelRecord(("f1", "f2"), {"model.layers.2.mlp.down_proj.weight": part})
