"""Edit a real pretrained model and read what it says before, after, and when an edit is taken out again.

    scripts/real_model.sh                        # once: SmolLM2-135M in checkpoints/smollm2
    .venv/bin/python examples/edit_real_model.py store checkpoints/smollm2 --text docs

`--text` is a folder of text to tell the editor what to spare: your own is best; the pages of docs/ show that it works.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lifelong_edit import EditRequest, LifelongEditor
from lifelong_edit.cli.options import hide_loading_bars

FACTS = (
    EditRequest(
        "The band {} was founded in", "Pixies", "Chicago", id="pixies",
        wordings=("The rock group {} was formed in", "The musicians of {} come from", "The story of {} began in"),
    ),
    EditRequest(
        "The mother tongue of {} is", "Danielle Darrieux", "English", id="darrieux",
        wordings=("{} grew up speaking", "The first language of {} was", "{} is a native speaker of"),
    ),
    EditRequest(
        "The new car called {} is made by", "Fiat 500X", "BMW", id="fiat",
        wordings=("The company that builds the {} is", "Each {} comes from a factory of", "The {} is produced by"),
    ),
)  # fmt: skip
OTHERS = ("The capital of France is", "The Beatles were formed in", "Water boils at", "The Volkswagen Golf is made by")


def show(editor: LifelongEditor, title: str) -> None:
    """Print what the model says to the edited facts and to others."""
    print(f"\n{title}")
    view = editor.at(editor.head.seq)
    for prompt in (*(fact.question for fact in FACTS), *OTHERS):
        print(f"  {prompt} -> {view.answer(prompt)!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a new folder")
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="a folder of .md or .txt files")
    chosen = parser.parse_args()
    pages = [path.read_text("utf-8") for path in sorted(chosen.text.iterdir()) if path.suffix in (".md", ".txt")]
    paragraphs = [paragraph for page in pages for paragraph in page.split("\n\n") if len(paragraph) > 80]
    hide_loading_bars()
    with LifelongEditor.create(chosen.store, chosen.model, text=paragraphs) as editor:
        show(editor, "Before")
        commit = editor.apply(FACTS)
        show(editor, f"After the edits; not said: {', '.join(commit.failed) or 'none'}")
        editor.revert("fiat")
        show(editor, "The car's edit taken out again")


if __name__ == "__main__":
    main()
