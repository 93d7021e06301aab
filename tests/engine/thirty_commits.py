"""Thirty entries by every verb, in stores of each kind: what one version of the package writes is held against another.

`tests/data/thirty-commits` was written by commit 2533962: its model by `train`, its stores, in a checkout of it, by

    LOGNAME=ada PYTHONPATH=. python - .../tests/data/thirty-commits < .../tests/engine/thirty_commits.py

so this file uses nothing but public names that versions share. The model runs in float64: what is optimised on another
processor then differs by far less than anything that is decided on the way.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lifelong_edit import Budget, EditorSettings, EditRequest, LifelongEditor
from lifelong_edit.editing.targets import TargetSettings

ENTRIES = 31  # the first one and thirty more
SCENES: dict[str, dict[str, Any]] = {
    "joint-base": {"memory": "joint", "targets": "base", "layers": (0,)},
    "joint-live-two-layers": {"memory": "joint", "targets": "live", "layers": (0, 1)},
    "batch-live-two-layers": {"memory": "batch", "targets": "live", "layers": (0, 1)},
}
NAMES = [f"{first} {last}" for first in "Ada Bo Émile Ana Leo Mia".split() for last in "Quill Lund Zorn Díaz".split()]
PLACES = "Oran Marn Tarsis Kessel Norvik Ösel Velt Hest".split()
BORN, LIVES, CLERK, MOTHER = PROMPTS = (  # the first two of one subject share a slot
    "{} was born in",
    "{} lives in",
    "The clerk {} came from",
    "The mother of {} lives in",
)


def known() -> list[EditRequest]:
    """What the model learnt, a place to every prompt and name."""
    rng = random.Random(0)
    return [EditRequest(prompt, name, rng.choice(PLACES)) for name in NAMES for prompt in PROMPTS]


def texts() -> list[str]:
    """The sentences that the model was trained on, and that second moments are taken from."""
    return [f"{request.question} {request.target_new} ." for request in known()]


def train(folder: Path) -> None:
    """A GPT-2 of three blocks, 32 wide, with a token for every word, that knows its sentences by heart; bfloat16."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<s>", "</s>", *dict.fromkeys(word for text in texts() for word in text.split())]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    sizes = {"vocab_size": len(words), "n_positions": 48, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 64}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(**sizes, bos_token_id=0, eos_token_id=1, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    )
    edited = [block.mlp.c_proj.weight for block in model.transformer.h]  # large ones, beside which an edit is small
    others = [parameter for parameter in model.parameters() if all(parameter is not weight for weight in edited)]
    with torch.no_grad():
        for weight in edited:
            weight.mul_(5.0)
    adam = torch.optim.AdamW([{"params": others}, {"params": edited, "weight_decay": 0.0}], weight_decay=0.3)
    rate, rng = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, total_steps=800), random.Random(0)
    for _ in range(800):
        shuffled = fast(rng.sample(texts(), len(texts())))["input_ids"]
        rows = [torch.tensor([id for text in shuffled[start::32] for id in text]) for start in range(32)]
        ids, labels = (torch.nn.utils.rnn.pad_sequence(rows, True, padding) for padding in (1, -100))
        scores = model(ids).logits[:, :-1].flatten(0, 1)
        adam.zero_grad()
        torch.nn.functional.cross_entropy(scores, labels[:, 1:].flatten(), label_smoothing=0.05).backward()
        adam.step()
        rate.step()
    model.to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)


def asked(prompt: str, name: int, place: int, id: str | None = None) -> EditRequest:
    return EditRequest(prompt, NAMES[name], PLACES[place], id=id)


def write(model: Path, folder: Path, **choices: Any) -> None:
    """A store in `folder` that has lived through thirty entries, beside a file of the requests it was streamed."""
    target = TargetSettings(steps=8, rate=0.3, clamp=3.0, decay=0.01)
    settings = EditorSettings(
        contexts=1, shrinkage=0.1, ridge=0.5, halvings=2, confidence=0.5, target=target, **choices
    )
    with LifelongEditor.create(
        folder, model, settings, texts(), reason="to compare with", dtype=torch.float64
    ) as editor:
        live(editor, folder.with_suffix(".jsonl"))


def live(editor: LifelongEditor, source: Path) -> None:
    """Every verb, on facts that are known, said too faintly, in the way of others, or of one slot with another."""
    joint = editor.settings.memory == "joint"
    refit: Callable[..., Any] = editor.relax if joint else editor.repair
    hold = editor.protect if joint else editor.apply
    editor.apply([asked(BORN, 0, 0, "born"), asked(CLERK, 1, 1, "clerk")], reason="a first batch")
    editor.apply([asked(CLERK, 4, 2), asked(MOTHER, 5, 3)], method="emmet", ridge=10.0)
    editor.apply([asked(LIVES, 0, 4, "lives")], method="rome")  # in the slot of the very first
    editor.apply([asked(MOTHER, 2, 5, "faint")], ridge=500.0 if joint else 20.0)
    streamed = [asked(PROMPTS[number % 4], number, (3 * number) % 8) for number in range(6, 14)]
    source.write_text("".join(f"{json.dumps(request.to_dict())}\n" for request in streamed), encoding="utf-8")
    stream = list(editor.stream(source, batch=4, ridge=100.0 if joint else 2.0, relax=0))
    refitted = refit(reason="some facts fade")
    editor.tag("refitted")
    editor.measure(("rewrite/argmax", "rewrite/greedy"), drift=True)
    editor.revert(commit=refitted.entry.seq)
    editor.replace("clerk", PLACES[6], reason="he moved")
    hold([replace(known()[60], id="held")])
    hold([asked(MOTHER, 16, 2, "more"), asked(CLERK, 17, 1, "less")], ridge=20.0)
    editor.revert("born")  # the older one of its slot: the other gets a new value
    again = editor.apply([asked(BORN, 3, 0)], method="rome").facts[0].id
    editor.apply([asked(BORN, 3, 1)])  # supersedes it
    editor.calibrate([asked(LIVES, 20, 3)])
    editor.revert(commit=stream[0].entry.seq)
    editor.restore("born", stream[0].facts[1].id)
    editor.apply([asked(BORN, 3, 0)], budget=Budget(every=1, on_red="warn"))  # a fact of its own, the third time
    editor.tag("full")
    editor.revert(to="refitted", reason="back to what was fitted")  # with the refit in force
    editor.revert("lives", "faint")
    editor.revert(to=0)
    editor.restore(again)
    editor.revert(to="full")
    refit()
    editor.apply([asked(CLERK, 9, 0), asked(CLERK, 22, 5)], method="emmet")
    editor.restore("clerk")  # supersedes what replaced it
    editor.measure()


if __name__ == "__main__":
    data = Path(sys.argv[1])
    for name, choices in SCENES.items():
        write(data / "model", data / name, **choices)
