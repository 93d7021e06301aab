"""What commit, open, revert and targets cost in this checkout beside another one: nothing is to become slower.

    python scripts/bench_engine.py --against /path/to/another/checkout

Each side fills a store with real edits in processes of its own, by turns, on one thread. Printed are the medians of
each side, and of every pair of processes the ratio, this side by the other. Seconds are of the processor, which other
work on the machine disturbs least; those of the clock stand beside them and hold what is waited for, the disk above
all. The exit status is 1 when the median ratio of a figure is above 1.05.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tabulate import tabulate

HERE = Path(__file__).parents[1]
MODEL = Path("checkpoints/tiny-world")
PAIRS, LIMIT = 7, 1.05
BATCHES, BATCH, REPEATS = 6, 10, 7
FIGURES = ("commit", "open", "revert", "targets")
Seconds = tuple[float, float]  # of the processor, of the clock
Figures = dict[str, Seconds]


@dataclass
class Times:
    """What each figure took, every time it was measured."""

    taken: dict[str, list[Seconds]] = field(default_factory=dict)

    def of(self, figure: str, act: Callable[[], object]) -> None:
        """Measure a call."""
        processor, clock = time.process_time(), time.perf_counter()
        act()
        self.taken.setdefault(figure, []).append((time.process_time() - processor, time.perf_counter() - clock))

    def medians(self) -> Figures:
        return {figure: tuple(map(median, zip(*taken, strict=True))) for figure, taken in self.taken.items()}


def measured(folder: Path) -> Figures:
    """The figures of the package that is imported: of a commit of ten facts, the rest in a store of sixty."""
    import torch

    from lifelong_edit import EditorSettings, LifelongEditor
    from lifelong_edit.editing.targets import TargetSettings, optimise_targets
    from lifelong_edit.model.editable import EditableModel
    from lifelong_edit.world.generator import BUNDLED_SEED, World
    from lifelong_edit.world.requests import edit_requests

    torch.set_num_threads(1)
    requests, times = edit_requests(World.generate(BUNDLED_SEED), BATCHES * BATCH, 0), Times()
    batches = [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]
    editable = EditableModel.open(MODEL, torch.float32)
    (layer,) = EditorSettings(target=TargetSettings()).resolved(editable)
    base, settings, groups = editable.weight(layer), TargetSettings(), [[request] for request in batches[0]]
    with LifelongEditor.create(folder, MODEL, dtype=torch.float32) as editor:
        for batch in batches:
            times.of("commit", lambda: editor.apply(batch))  # noqa: B023
        ids = list(editor.facts())[::BATCH]
        for id in ids:
            times.of("revert", lambda: editor.revert(id))  # noqa: B023
            editor.restore(id)
        for _ in range(REPEATS):
            times.of("targets", lambda: optimise_targets(editable, groups, layer, editor.contexts, settings))
    for _ in range(REPEATS):
        opened: list[LifelongEditor] = []
        times.of("open", lambda: opened.append(LifelongEditor.open(folder, editable)))  # noqa: B023
        opened[0].close()
        editable.set_weights({layer: base})
    return times.medians()


def measured_in(checkout: Path) -> Figures:
    """The figures of a checkout, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--alone"]
    run = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{checkout} could not be measured (status {run.returncode}):\n{run.stderr}")
    found = json.loads(run.stdout)
    if not Path(found["package"]).is_relative_to(checkout):
        raise SystemExit(f"{found['package']} was measured in place of the package in {checkout}.")
    return {figure: tuple(found["seconds"][figure]) for figure in FIGURES}


def compared(figure: str, kind: int, mine: Sequence[Figures], others: Sequence[Figures]) -> list[float]:
    """Medians of both sides, and median, least and most of the ratios; of the processor (kind 0) or the clock (1)."""
    ours, theirs = ([run[figure][kind] for run in runs] for runs in (mine, others))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return [median(ours), median(theirs), median(ratios), min(ratios), max(ratios)]


def alone() -> None:
    """Measure the package that is imported, and print the figures as JSON."""
    import lifelong_edit

    with tempfile.TemporaryDirectory() as folder:
        seconds = measured(Path(folder) / "store")
    print(json.dumps({"package": lifelong_edit.__file__, "seconds": seconds}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how many processes of each side")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        alone()
        return 0
    if chosen.against is None:
        parser.error("--against is needed: the checkout to compare with")
    sides = (HERE, chosen.against.resolve())
    runs: dict[Path, list[Figures]] = {side: [] for side in sides}
    for number in range(chosen.pairs):
        for side in sides if number % 2 else reversed(sides):
            runs[side].append(measured_in(side))
    table = {figure: compared(figure, 0, *runs.values()) for figure in FIGURES}
    rows = [[figure, *row, *compared(figure, 1, *runs.values())] for figure, row in table.items()]
    names = ("this", "other", "ratio", "least", "most")
    print(tabulate(rows, ["seconds", *names, *(f"{name}, clock" for name in names)], floatfmt=".3f"))
    return int(any(row[2] > LIMIT for row in table.values()))


if __name__ == "__main__":
    sys.exit(main())
