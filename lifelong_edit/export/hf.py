"""Export a folder that plain transformers loads, and compare it with the live model before reporting success."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lifelong_edit.engine.reader import Reader
from lifelong_edit.errors import ModelError
from lifelong_edit.export.card import EDITS, edits_jsonl, model_card
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.outputs import new_folder, size_of
from lifelong_edit.tracking.drift import next_log_probabilities

PROMPTS = ("The", "In the year 1900", "A question. Answer:")
ASKED = 20  # of the edits' own prompts
TOLERANCE = 1e-5  # of next-token log-probabilities, in float32 and float64


@dataclass(frozen=True)
class Exported:
    """A written model; `difference` is the largest between its next-token log-probabilities and the live model's."""

    path: Path
    bytes: int
    facts: int
    difference: float


def export_hf(
    reader: Reader, destination: Path, ref: int | str | None = None, dtype: torch.dtype | None = None
) -> Exported:
    """Write the model after entry `ref`, by default the newest, to a new folder: weights, tokenizer, card and edits.

    What was written is opened again; `ModelError` when its parameters differ by a bit, or its log-probabilities by more
    than 1e-5. `StoreError` when it cannot be written, `RequestError` when something has the name. Nothing is left then.
    """
    view = reader.at(reader.head.seq if ref is None else ref)
    model = view.editable.model if dtype is None else _cast(view.editable.model, dtype)
    shown = EditableModel(model, view.editable.tokenizer)
    prompts = [*PROMPTS, *[fact.question for fact in list(view.facts.values())[:ASKED]]]
    with new_folder(destination) as folder:
        _save(shown, folder)
        (folder / "README.md").write_text(model_card(reader, view), encoding="utf-8")
        (folder / EDITS).write_text(edits_jsonl(view), encoding="utf-8")
        # Opened again before the folder gets its name: an export that is there is one that was compared.
        again = EditableModel.open(folder)
        if fingerprint(again) != fingerprint(shown):
            raise ModelError(f"What was written for {destination} is not the live model. Nothing was kept; try again.")
        apart = (next_log_probabilities(again, prompts) - next_log_probabilities(shown, prompts)).abs().max()
        if not float(apart) <= TOLERANCE:
            raise ModelError(
                f"The export computes otherwise than the live model, by {float(apart):.1e}. Nothing was kept."
            )
    return Exported(destination, size_of(destination), len(view.facts), float(apart))


def _save(editable: EditableModel, folder: Path) -> None:
    """Write model and tokenizer; whatever their savers raise becomes an `OSError`."""
    try:
        editable.model.save_pretrained(folder)
        editable.tokenizer.save_pretrained(folder)
    except Exception as error:  # on a full disk tokenizers raises an exception of no class of its own
        raise OSError(str(error)) from error


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Copy a model with its parameters in this dtype; buffers keep theirs, as when a folder of this dtype is loaded."""
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data = parameter.data.to(dtype)
    other.config.dtype = dtype
    return other
