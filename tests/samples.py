"""Facts, contexts and texts that small random models are edited with, and stores made for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from tests.models import SENTENCES, small_editable

PATIENCE = 600  # seconds that something may take on a busy machine; only what hangs takes longer
CONTEXTS = ("In 1912 he lives in Oran. ", "The river. ")
REQUESTS = (
    EditRequest("{} was born in", "Ada Quill", "Marn", id="ada"),
    EditRequest("The mother tongue of {} is", "Émile Zorn", "Veltish of the river Ösel", id="emile"),
    EditRequest("Where does {} live? He lives in", "Bo Lund", "Kessel", id="bo"),
    EditRequest("In 1912 the company {} moved its headquarters to", "Norvik", "Tarsis near Oran", id="norvik"),
    EditRequest("{} lives in", "Ana María Díaz", "Oran", id="ana"),
    EditRequest("The founder of the company {}", "Kessel", "Bo", id="kessel"),
)
TEXT = [f"{a} {b}" for a in SENTENCES for b in SENTENCES if a != b] + [text[::-1] for text in SENTENCES]
QUICK = TargetSettings(steps=6, rate=0.5, clamp=4.0, decay=0.002)


def lively_editable(
    model_type: str, dtype: torch.dtype = torch.float32, gain: float = 3.0, blocks: int = 2
) -> EditableModel:
    """A small random model whose last block's matrices are so large that a subject's state reaches later tokens.

    With sdpa where the architecture has it: eager attention takes its softmax in float32.
    """
    editable = small_editable(model_type, dtype, attention="eager" if model_type == "gemma2" else "sdpa", blocks=blocks)
    with torch.no_grad():
        for parameter in editable.block(editable.layers - 1).parameters():
            if parameter.dim() == 2:
                parameter.mul_(gain)
    return editable


def new_editor(
    folder: Path, editable: EditableModel, text: Sequence[str] = tuple(TEXT), **choices: Any
) -> LifelongEditor:
    """An editor on a new store in `folder`: layer 0, one context, quick targets, a fixed ridge unless chosen otherwise.

    With fixed ridges what a fact is written with does not depend on what was there, as many laws want it. Changes may
    be of any size, for the weights are random.
    """
    fixed = {"layers": (0,), "contexts": 1, "target": QUICK, "ridge": 0.5, "halvings": 0, "norm_limit": None}
    settings = EditorSettings(**{**fixed, **choices})
    return LifelongEditor.create(folder, editable, settings, text)


def write_requests(path: Path, requests: Sequence[EditRequest]) -> str:
    """Write the requests as a .jsonl file; gives its path."""
    path.write_text("".join(json.dumps(request.to_dict()) + "\n" for request in requests), encoding="utf-8")
    return str(path)
