"""Sequential lifelong knowledge editing for causal language models, with a ledger.

The names load on first use, so that reading a ledger needs neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifelong_edit.datasets.easyedit import from_easyedit
    from lifelong_edit.editing.settings import EditorSettings
    from lifelong_edit.engine import Commit, LifelongEditor
    from lifelong_edit.facts import EditRequest
    from lifelong_edit.tracking.budget import Budget
    from lifelong_edit.tracking.health import HealthLimits
    from lifelong_edit.tracking.watch import Watch

_HOMES = {
    "Budget": "lifelong_edit.tracking.budget",
    "Commit": "lifelong_edit.engine",
    "EditRequest": "lifelong_edit.facts",
    "EditorSettings": "lifelong_edit.editing.settings",
    "HealthLimits": "lifelong_edit.tracking.health",
    "LifelongEditor": "lifelong_edit.engine",
    "Watch": "lifelong_edit.tracking.watch",
    "from_easyedit": "lifelong_edit.datasets.easyedit",
}

__all__ = [
    "Budget",
    "Commit",
    "EditRequest",
    "EditorSettings",
    "HealthLimits",
    "LifelongEditor",
    "Watch",
    "from_easyedit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
