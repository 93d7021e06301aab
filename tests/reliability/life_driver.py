"""The driver whose job is a life: streams that relax, and between them a replacement, reverts and a restore.

A verb is known in the ledger by the reason that its entry gives, so a life that is called again goes on after the last
step that was committed. The model is one that says its facts, for otherwise nothing fades and nothing is relaxed.
"""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from lifelong_edit import EditorSettings, LifelongEditor
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine.change.commit import Commit
from lifelong_edit.model.editable import EditableModel
from tests.engine.thirty_commits import PLACES, PROMPTS, asked, texts
from tests.reliability.audit import MEMORY
from tests.reliability.driver import Job, report, serve

MODEL = Path(__file__).parents[1] / "data" / "thirty-commits" / "model"
BATCH, RELAX = 2, 2  # facts an edit, edits until those that fade are relaxed
LONGEST = 120  # seconds that a job may take
FACTS = [asked(PROMPTS[number % 4], number, (3 * number) % 8, f"fact-{number}") for number in range(12)]
PARTS = {"first.jsonl": FACTS[:6], "second.jsonl": FACTS[6:]}
Step = Callable[[LifelongEditor, str], Iterable[Commit]]
STEPS: dict[str, Step] = {
    "first.jsonl": lambda editor, source: editor.stream(source, batch=BATCH, ridge=200.0, relax=RELAX),
    "moved": lambda editor, reason: [editor.replace("fact-1", PLACES[6], reason=reason)],
    "withdrawn": lambda editor, reason: [editor.revert("fact-0", "fact-4", reason=reason)],
    "said again": lambda editor, reason: [editor.restore("fact-4", reason=reason)],
    "as it was": lambda editor, reason: [editor.revert(to=2, reason=reason)],  # before anything was relaxed
    "after all": lambda editor, reason: [editor.revert(to=6, reason=reason)],
    "second.jsonl": lambda editor, source: editor.stream(source, batch=BATCH, ridge=200.0, relax=RELAX),
    "back again": lambda editor, reason: [editor.restore("fact-1", reason=reason)],
    "withdrawn too": lambda editor, reason: [editor.revert(commit=3, reason=reason)],
}


def write_sources(folder: Path) -> None:
    """The sources of the streams, in the folder that the store is in."""
    for name, part in PARTS.items():
        (folder / name).write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in part), encoding="utf-8")


def model() -> EditableModel:
    return EditableModel.open(MODEL, torch.float64)


def found(job: Job) -> None:
    """A new store without an edit."""
    target = TargetSettings(steps=6, rate=0.3, clamp=3.0, decay=0.01)
    settings = EditorSettings(
        layers=(0,), targets="live", ridge=0.5, confidence=0.3, shrinkage=0.1, contexts=1, target=target
    )
    LifelongEditor.create(Path(job.root), model(), settings, texts()).close()


def lived(root: Path) -> Iterator[Commit]:
    """Take the steps that the store has not taken; yields every commit."""
    with LifelongEditor.open(root, model()) as editor:
        names, told = list(STEPS), {entry.body["reason"] for entry in editor.history()}
        first = max((place for place, name in enumerate(names, start=1) if name in told), default=0)
        for name in names[first:]:
            yield from STEPS[name](editor, str(root.parent / name) if name in PARTS else name)


def live(job: Job) -> None:
    signal.alarm(LONGEST)  # a job that hangs ends of it, which no kill does
    for commit in lived(Path(job.root)):
        if commit.entry is not None:
            report("ok", commit.entry.digest)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a forked process has none but its first thread
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        write_sources(Path(name))
        found(Job(f"{name}/store", "found"))
        assert list(lived(Path(name) / "store"))  # so that nothing is left to be loaded at first use
    serve({"found": found, "live": live})
