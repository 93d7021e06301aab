"""Write what `lifelong-edit tune` is given for a real model: facts that settings are chosen by, text, prompts.

    LIFELONG_EDIT_DATA=... python scripts/tune_inputs.py --model checkpoints/smollm2 --out inputs

makes edits.jsonl, paragraphs.txt and statements.txt in a new folder. None of it is in the pool `test` of
`scripts/real_quality.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from transformers import AutoTokenizer

from lifelong_edit import EditRequest
from lifelong_edit.outputs import new_folder
from real_facts import Fact, Material


def request(fact: Fact) -> EditRequest:
    """A fact as a user writes it, with the paraphrases that are scored."""
    return EditRequest(
        fact.prompt,
        fact.subject,
        fact.new,
        id=f"case-{fact.case}",
        paraphrase_prompts=fact.paraphrases,
        wordings=fact.wordings,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/smollm2"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--facts", type=int, default=200)
    chosen = parser.parse_args()
    material = Material("dev", AutoTokenizer.from_pretrained(chosen.model))
    given = material.given()
    lines = [json.dumps(request(fact).to_dict(), ensure_ascii=False) for fact in material.facts()[: chosen.facts]]
    with new_folder(chosen.out) as folder:
        (folder / "edits.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "paragraphs.txt").write_text("\n\n".join(given.text) + "\n", encoding="utf-8")
        statements = "\n".join(f"{known.question} {known.answer}" for known in given.prompts)
        (folder / "statements.txt").write_text(statements + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
