"""What the body of a ledger entry holds: its fields as types, and those of every entry, which say who made it and how.

A body is a JSON object of these types: `misfit` checks it as it is read, since anybody can rewrite a ledger and give
it digests that agree. That a body fits the entries before it, `history` checks.

The kinds of entries:

* ``init``: the store was made.
* ``edit``, ``replace``: facts were added; an older answer to the same prompt is superseded.
* ``protect``: as ``edit``, for facts of the base that are to stay as they are. A column for them alone has no residual.
* ``revert``: active facts were taken out, refits withdrawn, or both; what they had superseded is active again.
* ``restore``: facts that were reverted or superseded are active again.
* ``relax``, ``repair``: refits, which change how the weights hold the active facts and not which facts are active.
  ``relax`` brings columns with a lower ridge for its ``facts``; ``repair`` solves all that was written before it as
  one batch. A refit is in force until a ``revert`` has its seq in ``withdrawn``, and again when one has it in
  ``reinstated``.
* ``measure``: the model was scored, and nothing changed.
* ``tag``: an entry was given a name.

A kind that is not named here may change the weights in ways this version cannot know, and is refused.
"""

from __future__ import annotations

import getpass
import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from types import UnionType
from typing import Any, TypedDict, Union, cast, get_args, get_origin, get_type_hints, is_typeddict


class Config(TypedDict):
    """What is read of a store's settings without the engine, whose `EditorSettings` they are."""

    layers: list[int]
    memory: str
    targets: str


class AddedFact(TypedDict):
    """A fact in the entry that adds it; `request` is what `EditRequest.to_dict` gives."""

    id: str
    slot: str
    request: dict[str, Any]


class VitalSigns(TypedDict):
    """The vital signs by name, and the number of facts that were active when they were read."""

    facts: int
    signs: dict[str, float]


class WeightTelemetry(TypedDict, total=False):
    """Figures of one edited weight from stored keys and values alone; None for a number that is not finite."""

    capacity: float | None
    preservation: float | None
    relative_norm: float | None
    norm: float | None
    stable_rank: float | None
    entropy: float | None
    condition: float | None
    newest_condition: float | None
    residual: dict[str, float] | None  # median, p90 and max over the active facts
    interference: list[list[float]]  # [seq, size] of the older edits that the change disturbs most
    flagged: dict[str, float]  # risk of being forgotten, by fact id
    collisions: list[list[Any]]  # [fact id, fact id, cosine of their keys]


class RetentionRow(TypedDict):
    """The mean score of the facts of one cohort (all that entry `cohort` added) that were asked about."""

    cohort: int
    metric: str
    value: float | None
    facts: int


class DriftRow(TypedDict):
    """A figure of the model, that of its base, and the ends of its 95 % interval; None where unknown."""

    metric: str
    value: float | None
    base: float | None
    low: float | None
    high: float | None


class Body(TypedDict, total=False):
    """The body of an entry of any kind, with the fields of its kind."""

    # Every entry: what `signature` gives, and what the ledger adds.
    kind: str
    time: str
    actor: str | None
    reason: str | None
    seed: int
    versions: dict[str, str | int]
    seq: int
    prev: str
    requests: dict[str, str]  # digest of a request's content, by its id

    # init: settings, base model, and all that edits and measurements start from; by the number of the edited layer.
    config: Config
    fingerprint: str
    base_weights: str
    contexts: list[str]
    statistics: dict[str, str]  # digest of the second moment of the keys
    calibration: dict[str, float]  # mean key mass
    condition: dict[str, float]  # condition number of the metric
    probes: dict[str, Any]
    watch: dict[str, Any]
    protected: list[dict[str, Any]]
    memory_kind: str  # where it is not the kernel
    metric: str  # what changes are measured by, where it is not the second moment

    # What becomes of facts: an edit has whole facts, all others their ids. `to` is the seq that was gone back to.
    facts: list[AddedFact] | list[str]
    superseded: list[str]
    restored: list[str]
    to: int
    withdrawn: list[int]
    reinstated: list[int]

    # What becomes of the weights: digests of the record and of the edited weights, and how columns were optimised.
    record: str
    weights: str
    columns: list[list[str]]  # ids of the facts that each column of the record is for
    loss: list[float]  # of each column, where its optimisation ended
    steps: list[int]  # of each column, when it ended
    method: str
    hyperparameters: dict[str, Any]
    survived: dict[str, float]  # share of each weight's delta that the cast to the live dtype kept
    effect: dict[str, list[float]]  # figures before a refit and after it
    refused: list[str]  # ids of the other requests of a batch that was over its budget, and was tried in halves

    # Measurements; right after an edit, scores are of the edit's own facts.
    scores: dict[str, dict[str, float | None]]  # by metric and fact id
    retention: list[RetentionRow]
    drift: list[DriftRow]
    vital: VitalSigns
    telemetry: dict[str, WeightTelemetry]  # by weight
    noise: dict[str, float]  # growth of each vital sign by an edit known to be harmless

    # tag: the name, and the seq of the entry that has it.
    tag: str
    target: int


Check = Callable[[Any], bool]


def misfit(body: Mapping[str, Any]) -> str | None:
    """The name of the first field that has not the type it is written with; None when all have. Others may be there."""
    return next((name for name in FIELDS.keys() & body.keys() if not FIELDS[name](body[name])), None)


def _check(kind: Any) -> Check:
    """A function that tells whether a JSON value is of a type: plain, a union, a list, a mapping from texts."""
    origin, inner = get_origin(kind), get_args(kind)
    if plain := _plain(kind):
        return lambda value: type(value) in plain
    if is_typeddict(kind):
        fields, required = _fields(kind), kind.__required_keys__
        return lambda value: (
            isinstance(value, dict)
            and required <= value.keys()
            and all(fields[name](item) for name, item in value.items() if name in fields)
        )
    if origin is list:
        each = _check_all(inner[0])
        return lambda value: isinstance(value, list) and each(value)
    if origin is dict:
        each = _check_all(inner[1])
        return lambda value: isinstance(value, dict) and each(value.values())
    choices = [_check(one) for one in inner]
    return lambda value: not choices or any(check(value) for check in choices)


def _check_all(kind: Any) -> Callable[[Iterable[Any]], bool]:
    """The same for many values; of plain ones only the types are compared, as a ledger has very many numbers."""
    check, plain = _check(kind), _plain(kind)
    return (lambda values: set(map(type, values)) <= plain) if plain else (lambda values: all(map(check, values)))


def _plain(kind: Any) -> set[type]:
    """The types that a value of a plain type has, or of a union of plain ones; none for any other."""
    parts = [PLAIN.get(one, set()) for one in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,))]
    return set[type]().union(*parts) if all(parts) else set()


def _fields(kind: Any) -> dict[str, Check]:
    return {name: _check(hint) for name, hint in get_type_hints(kind).items()}


PLAIN: dict[Any, set[type]] = {str: {str}, int: {int}, float: {float, int}, type(None): {type(None)}}
FIELDS = _fields(Body)
PINNED = ("config", "fingerprint", "base_weights", "contexts", "statistics", "calibration", "seed")
"""What the first entry of every store says."""


def added_facts(body: Body) -> list[AddedFact]:
    """The facts of an entry whose kind adds facts."""
    return cast(list[AddedFact], body["facts"])


def named_facts(body: Body) -> list[str]:
    """The fact ids of an entry whose kind adds no facts."""
    return cast(list[str], body["facts"])


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
