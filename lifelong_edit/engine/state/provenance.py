"""What a computation of the engine depends on beside its inputs, as every entry that has one says."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from lifelong_edit.store.bodies import signature

LIBRARIES = ("torch", "transformers", "safetensors", "numpy")


def signed(actor: str | None, reason: str | None, seed: int) -> dict[str, Any]:
    """The common fields of the body of an entry that something was computed for."""
    return signature(actor, reason, seed, software())


def software() -> dict[str, str | int]:
    """Versions of the libraries, the kind of processor, and the number of threads."""
    return {
        **{name: version(name) for name in LIBRARIES},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
