"""What a format is: how its rows look, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lifelong_edit.datasets.drafts import Draft

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of rows.

    `marks` are the paths that rows of it have, of `any_of` they have at least one: ``a`` is a field, ``a.b`` a field
    of an object, ``a[].b`` one of the objects in a list, ``a[]`` a list. `fields` are the fields that are read;
    `drafts` reads a row, and is told which of the `choices` is meant.
    """

    name: str
    title: str
    marks: frozenset[str]
    fields: frozenset[str]
    drafts: Callable[[Fields, str | None], Iterable[Draft]]
    any_of: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()

    def marks_in(self, paths: frozenset[str]) -> frozenset[str]:
        """The marks found, none when one is lacking."""
        optional = self.any_of & paths
        return self.marks | optional if self.marks <= paths and (optional or not self.any_of) else frozenset()


def paths_of(row: Fields) -> frozenset[str]:
    """The paths of a row's fields that say something, two deep."""
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
