"""Context prefixes: short texts sampled from the base model that stand before a prompt, so that an edit holds there.

Sampled once per store from its seed and kept in the ledger; a resumed run edits with the same ones. The published
procedures (MEMIT, arXiv 2210.07229) sample them anew in every process.
"""

from __future__ import annotations

import torch

from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import tokens

OPENINGS = ("The", "Therefore", "Because", "I", "You")
TOKENS, CHOICES = 10, 50


@torch.no_grad()
def sample_contexts(editable: EditableModel, count: int, seed: int) -> tuple[str, ...]:
    """`count` prefixes of about ten sampled tokens, each ending in ``". "``; equal seeds give equal prefixes.

    Sampled on the CPU from the 50 likeliest tokens, so that the device does not matter.
    """
    generator = torch.Generator().manual_seed(seed)
    contexts = []
    for number in range(count):
        ids = torch.tensor([tokens(editable.texts, OPENINGS[number % len(OPENINGS)])[0]])
        opening = ids.shape[1]
        for _ in range(TOKENS):
            logits = editable.model(input_ids=ids.to(editable.device)).logits[0, -1].float().cpu()
            best = logits.topk(min(CHOICES, logits.numel()))
            drawn = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, best.indices[drawn][None]], dim=1)
        sampled = str(editable.tokenizer.decode(ids[0, opening:], skip_special_tokens=True))
        text = OPENINGS[number % len(OPENINGS)] + sampled
        contexts.append(" ".join(text.replace("\ufffd", "").split()).rstrip(" .") + ". ")
    return tuple(contexts)
