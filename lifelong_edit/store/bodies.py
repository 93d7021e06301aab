"""The fields that the body of every ledger entry has: who made it, when, why, and with which software."""

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
    """The common fields of an entry's body. `actor` is by default the user this process runs as.

    `software` names what a computation depended on beside Python and this package: versions of libraries, the
    processor, the number of threads. It is left out for an entry that computes nothing.
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
