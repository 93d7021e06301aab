"""A model's profile: what was found best for it of what settings may leave open, in a file of its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.errors import RequestError

PROFILE = "lifelong_edit.json"
MOST_BYTES = 100_000
OPEN: dict[str, Any] = {"layers": (), "ridge": None, "confidence": None, "target": None}
"""What a profile may say, as it is where settings leave it open."""


def suited(settings: EditorSettings, folder: Path | None) -> EditorSettings:
    """The settings, what they leave open taken from the profile in the model's folder, if there is one.

    `RequestError` for a file that is none.
    """
    path = None if folder is None else folder / PROFILE
    if path is None or not path.is_file():
        return settings
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        if unknown := set(values) - set(OPEN):
            raise ValueError(f"it holds {', '.join(sorted(unknown))} beside {', '.join(OPEN)}")
        profile = EditorSettings.from_choices(values)
    except (ValueError, TypeError, AttributeError, RecursionError, RequestError) as error:
        raise RequestError(f"{path} is no profile: {error}. Mend it or remove it.") from error
    return replace(
        settings,
        **{name: getattr(profile, name) for name, value in OPEN.items() if getattr(settings, name) == value},
    )
