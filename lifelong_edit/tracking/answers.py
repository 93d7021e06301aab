"""Ask a model to go on with a prompt, greedily."""

from __future__ import annotations

from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.generation import greedy

LENGTH = 8


def answer(editable: EditableModel, prompt: str, length: int = LENGTH) -> str:
    """Continue `prompt` greedily by at most `length` tokens, up to the first full stop or line break."""
    text = greedy(editable, [prompt], length, stop=editable.tokenizer.eos_token_id)[0]
    return text.strip().split("\n")[0].split(".")[0]
