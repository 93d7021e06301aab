"""What a format is: the fields its rows are known by, and how a row is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lifelong_edit.datasets.drafts import Draft

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """How rows of one format are recognised and read.

    Rows are recognised by paths: they have all `marks`, and at least one of `any_of`. ``a`` is a field, ``a.b`` a field
    of an object, ``a[].b`` a field of the objects in a list, ``a[]`` a list. `fields` are the fields that are read;
    `drafts` reads the edits of a row by one of the `choices`, as zsRE's two targets.
    """

    name: str
    title: str
    marks: frozenset[str]
    fields: frozenset[str]
    drafts: Callable[[Fields, str | None], Iterable[Draft]]
    any_of: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()

    def marks_in(self, paths: frozenset[str]) -> frozenset[str]:
        """The marks among these paths; empty when one is lacking."""
        optional = self.any_of & paths
        return self.marks | optional if self.marks <= paths and (optional or not self.any_of) else frozenset()


def paths_of(row: Fields) -> frozenset[str]:
    """Collect the paths of a row's fields that are not null, two levels deep."""
    return frozenset(path for name, value in row.items() if value is not None for path in _paths(name, value))


def _paths(name: str, value: Any) -> Iterable[str]:
    yield name
    if isinstance(value, dict):
        for inner, held in value.items():
            yield f"{name}.{inner}"
            if isinstance(held, list):
                yield f"{name}.{inner}[]"
    if isinstance(value, list):
        yield f"{name}[]"
        yield from (f"{name}[].{inner}" for item in value[:1] if isinstance(item, dict) for inner in item)
