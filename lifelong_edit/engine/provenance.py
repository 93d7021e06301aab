"""Who made an entry, when, why and with what: the part of every ledger entry's body that no edit decides."""

from __future__ import annotations

import getpass
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import torch

LIBRARIES = ("lifelong-edit", "torch", "transformers", "safetensors", "numpy")


def signature(actor: str | None, reason: str | None, seed: int) -> dict[str, Any]:
    """The common fields of an entry's body; without `actor`, the user this process runs as."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "actor": actor if actor is not None else _user(),
        "reason": reason,
        "seed": seed,
        "versions": software(),
    }


def software() -> dict[str, str | int]:
    """What a computation here depends on beside its inputs."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name
        return None
