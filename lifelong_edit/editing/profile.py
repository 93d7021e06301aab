"""A model's profile: what was found best for it of what settings may leave open.

It is a JSON file: `lifelong_edit.json` in the model's folder, one that is named, or one of those that ship with the
package, by its name. `about` in it says where its values come from and what shape of model they are for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel

PROFILE = "lifelong_edit.json"
SHIPPED = "profiles"
MOST_BYTES = 100_000
OPEN: dict[str, Any] = {"layers": (), "ridge": None, "confidence": None, "target": None}
"""What a profile may say, as it is where settings leave it open."""
SHAPE = ("depth", "width")


@dataclass(frozen=True)
class Profile:
    """A profile that was read: its name, the SHA-256 of its file, its choices, and what it says about itself."""

    name: str
    digest: str
    choices: EditorSettings
    about: Mapping[str, Any]

    def filling(self, settings: EditorSettings) -> EditorSettings:
        """The settings, what they leave open taken from the profile."""
        missing = {name for name, value in OPEN.items() if getattr(settings, name) == value}
        return replace(settings, **{name: getattr(self.choices, name) for name in missing})

    def fitted(self, settings: EditorSettings, editable: EditableModel) -> EditorSettings:
        """The same for this model; `RequestError` when the profile says that it is for models of another shape."""
        own, given = shape_of(editable), {name: self.about[name] for name in SHAPE if name in self.about}
        if any(own[name] != value for name, value in given.items()):
            raise RequestError(
                f"The profile {self.name} is for a model of {_told(given)}, this one has {_told(own)}. Leave it out, "
                "or find settings of this model's own: lifelong-edit tune."
            )
        return self.filling(settings)


def shape_of(editable: EditableModel) -> dict[str, int]:
    """What a profile may say of its model: `depth`, its layers, and `width`, the numbers in its stream."""
    return {"depth": editable.layers, "width": editable.shape(0)[0]}


def profile_for(folder: Path | None, named: str | Path | None = None) -> Profile | None:
    """The profile that is named, by a file or a shipped profile's name, else that in the model's folder, if any.

    `RequestError` for a file that is none, and for a name of nothing.
    """
    if named is None:
        path = None if folder is None else folder / PROFILE
        return _read(path, path.name) if path is not None and path.is_file() else None
    if str(named) in shipped_profiles():
        return _parsed(shipped_profiles()[str(named)], str(named))
    if not Path(named).is_file():
        raise RequestError(
            f"There is no profile {str(named)[:80]!r}: it is no file, and the names of those that ship are "
            f"{', '.join(shipped_profiles()) or 'none yet'}. Give a file, or leave it out."
        )
    return _read(Path(named), Path(named).name)


def suited(settings: EditorSettings, folder: Path | None, named: str | Path | None = None) -> EditorSettings:
    """The settings, what they leave open taken from their profile, if there is one; raises as `profile_for` does."""
    profile = profile_for(folder, named)
    return settings if profile is None else profile.filling(settings)


def shipped_profiles() -> dict[str, bytes]:
    """The profiles that ship with the package, by name."""
    folder = resources.files("lifelong_edit").joinpath(SHIPPED)
    files = sorted(folder.iterdir(), key=lambda file: file.name) if folder.is_dir() else []
    return {file.name.removesuffix(".json"): file.read_bytes() for file in files}


def profile_text(settings: EditorSettings, about: Mapping[str, Any]) -> str:
    """The file of a profile that says what these settings choose of what may be left open."""
    chosen = {name: value for name, value in settings.to_dict().items() if name in OPEN}
    return json.dumps({**chosen, "about": about}, indent=2, ensure_ascii=False) + "\n"


def _read(path: Path, name: str) -> Profile:
    if path.stat().st_size > MOST_BYTES:
        raise RequestError(f"{path} is no profile: it has more than {MOST_BYTES:,} bytes. Mend it or remove it.")
    return _parsed(path.read_bytes(), name)


def _parsed(data: bytes, name: str) -> Profile:
    try:
        values = json.loads(data.decode("utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        about = values.pop("about", {})
        if not isinstance(about, dict):
            raise ValueError("about is no JSON object")
        if unknown := set(values) - set(OPEN):
            raise ValueError(f"it holds {', '.join(sorted(unknown))} beside {', '.join(OPEN)}, about")
        choices = EditorSettings.from_choices(values)
    except (ValueError, TypeError, AttributeError, RecursionError, RequestError) as error:
        raise RequestError(f"{name} is no profile: {error}. Mend it or remove it.") from error
    return Profile(name, hashlib.sha256(data).hexdigest(), choices, about)


def _told(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in shape.items())
