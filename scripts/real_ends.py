"""What the end of an answer does: edit the same facts into a real model with several ends, and let it answer freely.

    LIFELONG_EDIT_DATA=... python scripts/real_ends.py --model checkpoints/smollm2 --store fresh --ends none . own

`none` asks for no end, `own` for the model's own, anything else is the end itself. With `--chat` facts are told as
messages of the chat template: `plain` with the plain prompt and two wordings as wordings, `chat` with three wordings in
the form of the template. The facts are the first of seed 0 of
the pool that settings are chosen by (`real_facts`); `--store` is made where there is none, and never edited itself.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from lifelong_edit import EditRequest, LifelongEditor
from lifelong_edit.cli.options import hide_loading_bars
from lifelong_edit.facts import Message
from lifelong_edit.model.chat import chat_text, rendered
from lifelong_edit.tracking.honest import Answers, Sheet, answered
from real_facts import Draw, Fact, Material
from real_quality import settings_of
from real_scores import answers, changes
from real_table import KNOWN

OTHERS = 150  # whose first choices are compared
HEADERS = [
    "end", "not said", "plain: exact", "begins", "chat: exact", "contains", "paraphrases", "first choice of others",
    "untouched", "|Delta| / |W|",
]  # fmt: skip


def requested(fact: Fact, end: str, chat: str | None, tokenizer: PreTrainedTokenizerBase) -> EditRequest:
    """The request of a fact, told as a prompt or as a message with wordings of a form."""
    asked = {"none": None, "own": True}.get(end, end)
    id = f"case-{fact.case}"
    if not chat:
        return EditRequest(fact.prompt, fact.subject, fact.new, id=id, wordings=fact.wordings, end=asked)
    told, wordings = (Message("user", fact.prompt),), (fact.prompt, *fact.wordings[:2])
    if chat == "chat":
        wordings = tuple(chat_text(tokenizer, [Message("user", wording)]) for wording in fact.wordings)
    return EditRequest(subject=fact.subject, target_new=fact.new, id=id, wordings=wordings, messages=told, end=asked)


def held(found: Sequence[Answers], mark: str) -> int:
    """Of how many facts the mark holds."""
    return sum(all(own.marks[mark]) for own in found)


class Trial:
    """The facts, and the base's answers about other subjects."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.tokenizer = AutoTokenizer.from_pretrained(chosen.model)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        material = Material("dev", self.tokenizer)
        self.drawn: Draw = material.draw(0, chosen.facts)
        if not chosen.store.exists():
            given = material.given()
            prompts = [f"{known.question} {known.answer}" for known in given.prompts]
            settings = settings_of(chosen.model, 0, [f"statistics.tokens={chosen.tokens}"])
            LifelongEditor.create(
                chosen.store, chosen.model, settings, given.text, dtype=torch.float32, prompts=prompts
            ).close()
        self.base = AutoModelForCausalLM.from_pretrained(chosen.model, dtype=torch.float32)
        self.others = [(known.question, known.answer) for known in self.drawn.others[:OTHERS]]
        self.before = answers(self.base, self.tokenizer, self.others)

    def row(self, end: str) -> list[object]:
        """Edit a copy of the store with this end, and score the live model."""
        facts, tokenizer = self.drawn.facts, self.tokenizer
        with tempfile.TemporaryDirectory(prefix="real-ends-") as folder:
            store = Path(shutil.copytree(self.chosen.store, Path(folder) / "store"))
            with LifelongEditor.open(store, self.chosen.model, dtype=torch.float32) as editor:
                failed = editor.apply([requested(fact, end, self.chosen.chat, tokenizer) for fact in facts]).failed
                editable, model = editor.editable, editor.model
                asked = [
                    [rendered(editable, requested(fact, "none", form, tokenizer)) for fact in facts]
                    for form in (None, "plain")
                ]
                plain, chats = (answered(editable, [Sheet(str(r.id), r) for r in form]) for form in asked)
                after = answers(model, tokenizer, self.others)
                worded = answers(model, tokenizer, [(p, fact.new) for fact in facts for p in fact.paraphrases])
                moved = changes(model, self.base)
        both = list(zip(self.before, after, strict=True))
        known = [(was, now) for was, now in both if was["right"] and was["p"] >= KNOWN]
        return [
            end,
            len(failed),
            *(held(plain, mark) for mark in ("exact", "begins")),
            *(held(chats, mark) for mark in ("exact", "contains")),
            sum(answer["right"] for answer in worded) / len(worded),
            sum(was["first"] == now["first"] for was, now in both) / len(both),
            sum(now["right"] for _, now in known) / len(known),
            " ".join(f"{value:.2f}" for value in moved.values()),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/smollm2"))
    parser.add_argument(
        "--store", type=Path, required=True, help="a store of this model without edits, or a new folder"
    )
    parser.add_argument("--ends", nargs="+", default=["none", "."])
    parser.add_argument("--facts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=20_000, help="of the texts, for a new store")
    parser.add_argument("--chat", choices=["plain", "chat"], help="tell facts as messages, with wordings of this form")
    chosen = parser.parse_args()
    hide_loading_bars()
    trial = Trial(chosen)
    print(tabulate([trial.row(end) for end in chosen.ends], HEADERS, floatfmt=".3f"))


if __name__ == "__main__":
    main()
