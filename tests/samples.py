"""Facts, contexts and texts that the small random models are edited with."""

from __future__ import annotations

import torch

from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from tests.models import SENTENCES, small_editable

CONTEXTS = ("In 1912 he lives in Oran. ", "The river. ")
REQUESTS = (
    EditRequest("{} was born in", "Ada Quill", "Marn"),
    EditRequest("The mother tongue of {} is", "Émile Zorn", "Veltish of the river Ösel"),
    EditRequest("Where does {} live? He lives in", "Bo Lund", "Kessel"),
    EditRequest("In 1912 the company {} moved its headquarters to", "Norvik", "Tarsis near Oran"),
    EditRequest("{} lives in", "Ana María Díaz", "Oran"),
    EditRequest("The founder of the company {}", "Kessel", "Bo"),
)
TEXT = [f"{a} {b}" for a in SENTENCES for b in SENTENCES if a != b] + [s[::-1] for s in SENTENCES]


def lively_editable(model_type: str, dtype: torch.dtype = torch.float32, gain: float = 3.0) -> EditableModel:
    """A small random model whose last block's matrices are so large that a subject's state reaches later tokens.

    With sdpa where the architecture has it: eager attention takes its softmax in float32.
    """
    editable = small_editable(model_type, dtype, attention="eager" if model_type == "gemma2" else "sdpa")
    with torch.no_grad():
        for parameter in editable.block(editable.layers - 1).parameters():
            if parameter.dim() == 2:
                parameter.mul_(gain)
    return editable
