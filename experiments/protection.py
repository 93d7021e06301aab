"""What protection buys: recall of protected and of other untouched facts while 600 facts are edited.

    python experiments/protection.py          # docs/protection.md

The bundled model, batches of 10, joint memory, once with the eased ridges of the default and once with one ridge of
half the mean key mass. 150 facts of people that nobody edits are protected: not at all, through the second moment at
creation, or as columns with zero residual (`protect`). 300 facts about others are measured beside them.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from tqdm import tqdm

from benches import Bench, known, tiny
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from results import markdown, write_below

PROTECTED, STOPS = 150, (200, 400, 600)
WAYS = {"nothing": None, "second moment, weight 1": 1.0, "second moment, weight 10": 10.0, "columns": 0.0}
RIDGES: dict[str, dict[str, Any]] = {"0.5": {"ridge": 0.5, "halvings": 0}, "eased": {}}
HEADS = ["ridge", "protected by", "facts", "efficacy", "protected", "other untouched"]
MARKER = "<!-- protection.py writes what follows -->"
Line = list[float | int | str]


def measure(bench: Bench, ridge: str, way: str) -> Iterator[Line]:
    """A line at each stop: argmax efficacy over all facts, recall of what is protected, and of what is not."""
    weight, layer = WAYS[way], EditorSettings(target=TargetSettings()).resolved(bench.editable)[0]
    spared = known_requests(bench)
    others = known(bench, bench.untouched)
    settings = EditorSettings(
        target=TargetSettings(), **RIDGES[ridge], protection=weight or EditorSettings().protection
    )
    with tempfile.TemporaryDirectory() as folder, bench.editable.rewritten({layer: bench.editable.weight(layer)}):
        at_once = spared if weight else ()
        editor = LifelongEditor.create(Path(folder) / "store", bench.editable, settings, bench.text, protect=at_once)
        if weight == 0.0:
            for start in range(0, len(spared), 50):
                editor.protect(spared[start : start + 50])
        for start in tqdm(range(0, max(STOPS), bench.batch), desc=f"{ridge}, {way}", unit="batch"):
            done = bench.requests[: start + bench.batch]
            editor.apply(done[start:])
            if len(done) % 100 == 0 and settings.halvings:
                editor.relax()
            if len(done) in STOPS:
                said = mean(bench.right([(request.question, request.target_new) for request in done]))
                kept = mean(bench.right([(request.question, request.target_new) for request in spared]))
                yield [ridge, way, len(done), said, kept, mean(bench.right(others))]
        editor.close()


def known_requests(bench: Bench) -> list[EditRequest]:
    """Listed facts that the base says, as requests."""
    right = bench.right([(request.question, request.target_new) for request in bench.listed])
    return [request for request, said in zip(bench.listed, right, strict=True) if said][:PROTECTED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/protection.md"))
    parser.add_argument("--ridges", nargs="+", choices=list(RIDGES), default=list(RIDGES))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    about = f"`experiments/protection.py`: 600 facts, batches of 10, {PROTECTED} protected facts, seed {chosen.seed}."
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = tiny(Path(scratch), chosen.seed)
        for ridge, way in itertools.product(chosen.ridges, WAYS):
            lines += measure(bench, ridge, way)
            table = markdown(lines, HEADS, texts=[0])
            write_below(chosen.out, MARKER, f"{about}\n\n{table}")


if __name__ == "__main__":
    main()
