"""A model's profile fills what settings leave open, and a file that is none is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifelong_edit.editing.layered import LayeredSettings
from lifelong_edit.editing.profile import OPEN, PROFILE, profile_for, profile_text, shape_of, shipped_profiles, suited
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.errors import RequestError
from tests.models import small_editable


def test_what_is_chosen_stays_and_what_is_open_is_the_profiles(tmp_path: Path) -> None:
    (tmp_path / PROFILE).write_text(json.dumps({"layers": [2, 3], "ridge": 0.3, "target": {"margin": 2.0}}))
    found = suited(EditorSettings(seed=7, ridge=0.9), tmp_path)
    assert (found.seed, found.ridge, found.layers) == (7, 0.9, (2, 3))
    assert found.target == LayeredSettings(margin=2.0)
    chosen = EditorSettings(layers=(1,), target=TargetSettings())
    assert suited(chosen, tmp_path).target == TargetSettings() and suited(chosen, tmp_path).layers == (1,)


def test_without_a_profile_settings_stay(tmp_path: Path) -> None:
    assert suited(EditorSettings(seed=3), tmp_path) == suited(EditorSettings(seed=3), None) == EditorSettings(seed=3)
    assert EditorSettings().recipe == LayeredSettings()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"seed": 1}',
        '{"target": {"margin": -1}}',
        '{"target": 3}',
        '{"layers": 3}',
        '{"about": 1}',
        "9" * 200_000,
    ],
)
def test_what_is_no_profile_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / PROFILE).write_text(text)
    with pytest.raises(RequestError, match=PROFILE):
        suited(EditorSettings(), tmp_path)


def test_a_named_file_stands_for_the_folders_own(tmp_path: Path) -> None:
    (tmp_path / PROFILE).write_text(json.dumps({"ridge": 0.3}))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"layers": [2], "about": {"found_by": "hand"}}))
    found = suited(EditorSettings(), tmp_path, other)
    assert (found.ridge, found.layers) == (None, (2,))
    profile = profile_for(None, str(other))
    assert profile is not None and (profile.name, profile.about) == ("other.json", {"found_by": "hand"})


def test_a_name_of_nothing_lists_those_that_ship() -> None:
    with pytest.raises(RequestError, match="it is no file.*" + ".*".join(shipped_profiles())):
        profile_for(None, "no such profile")


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    settings = EditorSettings(layers=(1, 2), ridge=0.2, confidence=0.1, target=LayeredSettings(margin=2.5))
    (tmp_path / PROFILE).write_text(profile_text(settings, {"depth": 4}), encoding="utf-8")
    assert suited(EditorSettings(), tmp_path) == settings


def test_a_profile_of_another_shape_is_refused_with_both(tmp_path: Path) -> None:
    editable = small_editable("gpt2")
    assert shape_of(editable) == {"depth": 2, "width": 32}
    for about in ({}, shape_of(editable), {"depth": 2}):
        (tmp_path / PROFILE).write_text(json.dumps({"about": about}))
        profile_for(tmp_path).fitted(EditorSettings(), editable)  # type: ignore[union-attr]
    (tmp_path / PROFILE).write_text(json.dumps({"about": {"depth": 30, "width": 32}}))
    with pytest.raises(RequestError, match=r"depth 30, width 32.*depth 2, width 32.*tune"):
        profile_for(tmp_path).fitted(EditorSettings(), editable)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", shipped_profiles())
def test_a_profile_that_ships_chooses_everything_and_says_whose_it_is(name: str) -> None:
    profile = profile_for(None, name)
    assert (
        profile is not None and profile.name == name and {"model", "depth", "width", "found_by"} <= set(profile.about)
    )
    assert all(getattr(profile.choices, field) != value for field, value in OPEN.items())
    assert profile.choices.layers[-1] < profile.about["depth"]


def test_the_profile_of_the_model_that_the_defaults_were_found_on_says_the_defaults() -> None:
    profile, defaults = profile_for(None, "smollm2-135m-instruct"), LayeredSettings()
    assert profile is not None
    said = {"target": defaults, "layers": defaults.layers(profile.about["depth"])}
    said |= {"ridge": defaults.ridge, "confidence": defaults.confidence}
    assert {name: getattr(profile.choices, name) for name in OPEN} == said
