"""What a model says: the greedy continuation of a prompt."""

from __future__ import annotations

from typing import Any, cast

import torch

from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.subject import tokens

LENGTH = 8


@torch.no_grad()
def answer(editable: EditableModel, prompt: str, length: int = LENGTH) -> str:
    """The greedy continuation of `prompt` by at most `length` tokens, up to its first full stop or line break."""
    ids = torch.tensor([tokens(editable.tokenizer, prompt.rstrip())[0]], device=editable.device)
    said = cast(Any, editable.model).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=length,
        do_sample=False,
        pad_token_id=editable.pad_id,
    )
    text = str(editable.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))
    return text.strip().split("\n")[0].split(".")[0]
