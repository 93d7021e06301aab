"""The world that the bundled model was trained on."""

from __future__ import annotations

import pytest

from lifelong_edit.world.generator import World


@pytest.fixture(scope="session")
def world() -> World:
    return World.generate(0)
