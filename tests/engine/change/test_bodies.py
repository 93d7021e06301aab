"""Bodies of ledger entries are what their types say, whatever verb wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.store.ledger import Body, Config
from lifelong_edit.tracking.budget import Budget
from lifelong_edit.tracking.watch import Watch
from tests.engine.change.test_budget import ANYTHING
from tests.engine.editors import base_model
from tests.models import SENTENCES
from tests.samples import QUICK, REQUESTS, TEXT

KEPT = EditRequest("{} lies near", "Kessel", "Oran")
FAINT: dict[str, Any] = {"ridge": 32.0, "halvings": 0, "confidence": 0.01}  # so that there is something to relax


def misfits(value: Any, hint: Any, where: str = "body") -> Iterator[str]:
    """The places at which a JSON value is not of the type; a float may be written as an int."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return
    if origin is Union or type(hint).__name__ == "UnionType":
        if all(any(misfits(value, one)) for one in inner):
            yield f"{where}: {value!r:.80} is none of {hint}"
    elif is_typeddict(hint):
        fields = get_type_hints(hint)
        for name, own in value.items() if isinstance(value, dict) else [("", value)]:
            if hint is Config and name not in fields:
                continue  # of the engine's own settings
            yield from misfits(own, fields[name], f"{where}.{name}") if name in fields else [f"{where}.{name}: unknown"]
    elif origin is tuple and isinstance(value, list) and len(value) == len(inner):
        for own, one in zip(value, inner, strict=True):
            yield from misfits(own, one, f"{where}[]")
    elif origin is list and isinstance(value, list):
        for own in value:
            yield from misfits(own, inner[0], f"{where}[]")
    elif origin is dict and isinstance(value, dict):
        for name, own in value.items():
            yield from misfits(own, inner[1], f"{where}.{name}")
    elif isinstance(value, bool) != (hint is bool) or not isinstance(
        value, (int, float) if hint is float else origin or hint
    ):
        yield f"{where}: {value!r:.80} is no {hint}"


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> list[Body]:
    """The entries of a store in which every verb of joint memory was used."""
    folder, settings = tmp_path_factory.mktemp("bodies"), EditorSettings(**FAINT, layers=(0,), contexts=1, target=QUICK)
    known = {"watch": Watch(texts=SENTENCES), "protect": [KEPT], "prompts": SENTENCES}
    with LifelongEditor.create(folder / "store", base_model(), settings, TEXT, **known) as editor:
        editor.apply(REQUESTS[:3], budget=Budget(every=1, limits=ANYTHING))
        refit = editor.relax().entry
        assert refit is not None
        editor.revert(commit=refit.seq)
        editor.revert(to=refit.seq)
        editor.protect([KEPT])
        editor.replace("bo", "Marn")
        editor.revert("ada")
        editor.restore("ada")
        editor.tag("here")
        editor.measure(drift=True)
        editor.calibrate([EditRequest("{} lies in", "Kessel", "Oran")])
        return [entry.body for entry in editor.history()]


def test_every_body_is_of_its_type(bodies: list[Body]) -> None:
    assert [line for body in bodies for line in misfits(body, Body)] == []


def test_every_field_and_every_kind_was_looked_at(bodies: list[Body]) -> None:
    kinds = {body["kind"] for body in bodies}
    assert kinds == {"init", "protect", "edit", "replace", "revert", "restore", "tag", "measure", "relax"}
    unseen = get_type_hints(Body).keys() - {name for body in bodies for name in body}
    # Elsewhere: tests/kinds, test_profile, test_halving, test_layered, test_on_fail; what costs, the weights decide.
    assert unseen - {"cost"} == {"memory_kind", "metric", "profile", "refused", "sensitivity", "on_fail"}


@pytest.mark.parametrize(
    "body",
    [
        {"seq": "0"},
        {"seq": True},
        {"unheard": 1},
        {"facts": [{"id": "a", "slot": "s", "request": {}}, "b"]},
        {"scores": {"rewrite/argmax": {"a": "1"}}},
        {"vital": {"facts": 1, "signs": [0.1]}},
        {"telemetry": {"w": {"unheard": 1.0}}},
        {"drift": {}},
        {"vital": 1},
    ],
)
def test_a_body_of_another_type_is_found(body: dict[str, Any]) -> None:
    assert len(list(misfits(body, Body))) == 1
