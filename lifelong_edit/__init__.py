"""Sequential lifelong knowledge editing for causal language models, with a ledger.

The names load on first use, so that reading a ledger needs neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifelong_edit.editing.settings import EditorSettings
    from lifelong_edit.engine import Commit, LifelongEditor
    from lifelong_edit.facts import EditRequest

_HOMES = {
    "Commit": "lifelong_edit.engine",
    "EditRequest": "lifelong_edit.facts",
    "EditorSettings": "lifelong_edit.editing.settings",
    "LifelongEditor": "lifelong_edit.engine",
}

__all__ = ["Commit", "EditRequest", "EditorSettings", "LifelongEditor"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
