"""Who made an entry, when, why and with what: the part of every ledger entry's body that no edit decides."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any


def signature(
    actor: str | None, reason: str | None, seed: int, software: Mapping[str, str | int] | None = None
) -> dict[str, Any]:
    """The common fields of an entry's body; without `actor`, the user this process runs as.

    `software` is what a computation depended on beside Python and this package; nothing was computed without it.
    """
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "actor": actor if actor is not None else _user(),
        "reason": reason,
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            "lifelong-edit": version("lifelong-edit"),
            **(software or {}),
        },
    }


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name
        return None
