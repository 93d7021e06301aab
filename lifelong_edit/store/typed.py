"""Check JSON values against types: plain ones, unions, lists, tuples, mappings from texts, and typed dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

Misfit = Callable[[Any], str | None]
"""Finds the first part of a JSON value that is not of its type: the way there (``.name[0]``), None when all fit."""
# A float that is a whole number is written as an integer; bool is no int here.
PLAIN: dict[Any, set[type]] = {
    str: {str},
    bool: {bool},
    int: {int},
    float: {float, int},
    type(None): {type(None)},
}


def misfit_of(kind: Any) -> Misfit:
    """Make the function that finds what is not of the type `kind`. Keys that a typed dictionary lacks may be there."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda _: None
    if plain := _plain(kind):
        return lambda value: None if type(value) in plain else ""
    if is_typeddict(kind):
        fields, required = (
            {name: misfit_of(hint) for name, hint in get_type_hints(kind).items()},
            kind.__required_keys__,
        )
        return lambda value: _in_fields(value, fields, required)
    if origin is tuple:
        parts = [misfit_of(one) for one in inner]
        return lambda value: _in_parts(value, parts)
    if origin is list:
        each = _in_all(inner[0])
        return lambda value: each(value, range(len(value)), "[", "]") if isinstance(value, list) else ""
    if origin is dict:
        each = _in_all(inner[1])
        return lambda value: each(value.values(), value, ".", "") if isinstance(value, dict) else ""
    choices = [misfit_of(one) for one in inner]
    return lambda value: None if any(choice(value) is None for choice in choices) else ""


def _plain(kind: Any) -> set[type]:
    """The Python types of a value of a plain type, or of a union of plain ones; none for any other type."""
    parts = [PLAIN.get(one, set()) for one in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,))]
    return set[type]().union(*parts) if all(parts) else set()


def _in_all(kind: Any) -> Callable[[Iterable[Any], Iterable[Any], str, str], str | None]:
    """Make the function that does so for values of one type, whose `names` stand between `before` and `after`."""
    plain, misfit = _plain(kind), misfit_of(kind)

    def found(values: Iterable[Any], names: Iterable[Any], before: str, after: str) -> str | None:
        if plain and set(map(type, values)) <= plain:  # a ledger has very many numbers
            return None
        ways = ((name, misfit(value)) for name, value in zip(names, values, strict=True))
        return next((f"{before}{name}{after}{rest}" for name, rest in ways if rest is not None), None)

    return found


def _in_fields(value: Any, fields: dict[str, Misfit], required: frozenset[str]) -> str | None:
    if not isinstance(value, dict):
        return ""
    for name, misfit in fields.items():
        rest = misfit(value[name]) if name in value else "" if name in required else None
        if rest is not None:
            return f".{name}{rest}"
    return None


def _in_parts(value: Any, parts: list[Misfit]) -> str | None:
    if not isinstance(value, list) or len(value) != len(parts):
        return ""
    found = ((place, misfit(part)) for place, (part, misfit) in enumerate(zip(value, parts, strict=True)))
    return next((f"[{place}]{rest}" for place, rest in found if rest is not None), None)
