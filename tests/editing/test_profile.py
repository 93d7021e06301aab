"""A model's profile fills what settings leave open, and a file that is none is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifelong_edit.editing.layered import LayeredSettings
from lifelong_edit.editing.profile import PROFILE, suited
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.errors import RequestError


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
    ["", "[]", "{", '{"seed": 1}', '{"target": {"margin": -1}}', '{"target": 3}', '{"layers": 3}', "9" * 200_000],
)
def test_what_is_no_profile_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / PROFILE).write_text(text)
    with pytest.raises(RequestError, match=PROFILE):
        suited(EditorSettings(), tmp_path)
