"""The driver with the whole engine in it: torch and a tiny model, warmed up once, forked for every job."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from tests.reliability.audit import MEMORY
from tests.reliability.driver import Job, report, serve
from tests.reliability.engines import base_model, request
from tests.samples import new_editor

SOURCE, BATCH = "stream.jsonl", 2
WORDS = [(0, 0, 0), (1, 0, 1), (0, 1, 2), (0, 1, 0), (1, 0, 2), (2, 0, 1), (2, 1, 1), (1, 2, 0)]
"""What the eight requests say: some share a slot, two supersede another, one of them the one before it."""


def requests() -> list[EditRequest]:
    return [request(f"request-{number}", *words) for number, words in enumerate(WORDS)]


def write_source(folder: Path, requests: list[EditRequest]) -> None:
    """The source of the stream, in the folder that the store is in."""
    lines = (json.dumps(request.to_dict(), ensure_ascii=False) + "\n" for request in requests)
    (folder / SOURCE).write_text("".join(lines), encoding="utf-8")


def found(job: Job) -> None:
    """A new store without an edit."""
    new_editor(Path(job.root), base_model(), targets="live").close()


def followed(root: Path) -> Iterator[str]:
    """Apply the source; yields every request's id once it is committed."""
    with LifelongEditor.open(root, base_model()) as editor:
        for commit in editor.stream(root.parent / SOURCE, batch=BATCH):
            yield from (fact.id for fact in commit.facts)


def stream(job: Job) -> None:
    for id in followed(Path(job.root)):
        report("ok", id)


def warm_up(folder: Path) -> None:
    """Do everything once, so that nothing is left to be loaded at first use."""
    write_source(folder, requests())
    found(Job(str(folder / "store"), "found"))
    assert list(followed(folder / "store"))


if __name__ == "__main__":
    torch.set_num_threads(1)  # a forked process has none but its first thread
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        warm_up(Path(name))
    serve({"found": found, "stream": stream})
