"""The kinds of memory: what can hold a fact. Each is a module or a package of this folder that has a `KIND`."""

from __future__ import annotations

import importlib
import pkgutil

from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.kinds.kind import Kind

DEFAULT = "kernel"


def kinds() -> dict[str, type[Kind]]:
    """Every kind by name, found by looking through this folder."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {module.KIND.name: module.KIND for module in modules if hasattr(module, "KIND")}


def kind_named(name: str) -> type[Kind]:
    """The kind a store says it is of; `StoreCorrupt` when this version has none of that name."""
    known = kinds()
    if name not in known:
        raise StoreCorrupt(
            f"The store is of kind {name[:80]!r}; this version knows {', '.join(sorted(known))}. Upgrade."
        )
    return known[name]
