"""Data sets of real facts, for tests that are skipped where `LIFELONG_EDIT_DATA` names no folder of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NAMED = os.environ.get("LIFELONG_EDIT_DATA", "")
FOLDER = Path(NAMED)
NEEDS_REAL_DATA = pytest.mark.skipif(not NAMED, reason="LIFELONG_EDIT_DATA names no folder of data sets")
