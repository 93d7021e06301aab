"""Methods are parameter choices of one solver: each file of this folder holds one as `METHOD`."""

from __future__ import annotations

import importlib
import pkgutil

from lifelong_edit.editing.methods.method import Method
from lifelong_edit.errors import RequestError


def methods() -> dict[str, Method]:
    """Every method by name, found by looking through this folder."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {module.METHOD.name: module.METHOD for module in modules if hasattr(module, "METHOD")}


def method_named(name: str) -> Method:
    """The method; `RequestError` names the known ones."""
    known = methods()
    if name not in known:
        raise RequestError(f"There is no method {name!r}. Choose one of {', '.join(sorted(known))}.")
    return known[name]
