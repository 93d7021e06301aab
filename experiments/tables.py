"""Stream 600 facts in joint and batch memory, by MEMIT and EMMET, and write the table and the picture of how they fare.

    python experiments/tables.py                                   # the bundled model, batches of 10
    LIFELONG_EDIT_DATA=... python experiments/tables.py --world real   # known CounterFact cases, batches of 50

Through the public engine, with its defaults but for what a row says. Joint memory with eased ridges relaxes after every
100 facts. Rows go to a JSONL file under docs/, and what it holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from tqdm import tqdm

from benches import WORLDS, Bench, Row, figures, known
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.statistics import StatisticsSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import SolveError
from results import markdown, rows_of

FIGURES = [
    "all ea",
    "newest ea",
    "oldest ea",
    *(f"sample {name}" for name in ("pa", "ns", "na", "aa")),
    "untouched",
    "ppl",
]
HEADS = ["EA all", "EA newest 50", "EA oldest 50", "PA", "NS", "NA", "AA", "untouched", "ppl ratio"]
STOPS = {"tiny": range(100, 601, 100), "real": (100, 300, 600)}
BESIDE = {"tiny": "the bundled model, layer 1, batches of 10", "real": "real facts, layer 1, batches of 50"}


@dataclass(frozen=True)
class Way:
    """One row of the comparison: a method and what differs from the default settings."""

    name: str
    method: str = "memit"
    settings: dict[str, Any] = field(default_factory=dict)


FIXED = {"ridge": 0.5, "halvings": 0}
LIVE = {"memory": "batch", "targets": "live"}
WAYS = [
    Way("joint MEMIT (the default)"),
    Way("joint MEMIT, one ridge of 0.5", settings=FIXED),
    Way("joint EMMET", method="emmet"),
    Way("batch MEMIT, live targets, eased ridges", settings=LIVE),
    Way("batch MEMIT, live targets, one ridge of 0.5 (published procedure)", settings={**LIVE, **FIXED}),
    Way("batch EMMET, live targets (published procedure)", method="emmet", settings=LIVE),
]


def measure(bench: Bench, way: Way, stops: list[int]) -> Iterator[Row]:
    """One stream; a row at each stop. One that the solver refuses ends there, and says so."""
    settings = EditorSettings(target=TargetSettings(), statistics=StatisticsSettings(tokens=100_000), **way.settings)
    untouched, ppl = known(bench, bench.untouched), bench.perplexity()
    (layer,) = settings.resolved(bench.editable)
    with tempfile.TemporaryDirectory() as folder, bench.editable.rewritten({layer: bench.editable.weight(layer)}):
        editor = LifelongEditor.create(Path(folder) / "store", bench.editable, settings, bench.text)
        for start in tqdm(range(0, max(stops), bench.batch), desc=way.name, unit="batch"):
            done = bench.requests[: start + bench.batch]
            try:
                editor.apply(done[start:], way.method)
            except SolveError as error:
                yield {"at": len(done), "refused": str(error)[:120]}
                break
            if len(done) % 100 == 0 and settings.memory == "joint" and settings.halvings:
                editor.relax()
            if len(done) in stops:
                row = {"at": len(done), **figures(bench, done), "untouched": mean(bench.right(untouched))}
                yield {**row, "ppl": bench.perplexity() / ppl}
        editor.close()


def table(rows: list[Row]) -> str:
    """The rows as Markdown, a block a way."""
    lines = []
    for way in WAYS:
        for row in (row for row in rows if row["way"] == way.name):
            told = ["refused: " + row["refused"][:60]] if "refused" in row else [row[name] for name in FIGURES]
            lines.append([way.name, row["at"], *told])
    return markdown(lines, ["", "facts", *HEADS])


def picture(rows: list[Row], path: Path) -> None:
    """Efficacy over all facts, over the oldest, and untouched recall, by the number of facts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, name, title in zip(
        figure.subplots(1, 3, sharey=True),
        ("all ea", "oldest ea", "untouched"),
        ("efficacy, all facts", "efficacy, the oldest 50", "recall of untouched facts"),
        strict=True,
    ):
        for way in WAYS:
            own = [row for row in rows if row["way"] == way.name and "refused" not in row]
            axes.plot([row["at"] for row in own], [row[name] for row in own], marker="o", markersize=3, label=way.name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("facts")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=tuple(STOPS), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--table", action="store_true", help="only write what was measured")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    raw, stops = chosen.out / f"tables_{chosen.world}.jsonl", list(STOPS[chosen.world])
    todo = [way for way in WAYS if way.name not in {row["way"] for row in rows_of(raw)}]
    if todo and not chosen.table:
        with tempfile.TemporaryDirectory() as scratch:
            bench = WORLDS[chosen.world](Path(scratch), chosen.seed)
            for way in todo:
                rows = [{"way": way.name, "seed": chosen.seed, **row} for row in measure(bench, way, stops)]
                with raw.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
    rows = rows_of(raw)
    picture(rows, chosen.out / f"tables_{chosen.world}.png")
    about = f"`experiments/tables.py --world {chosen.world}` measured this: {BESIDE[chosen.world]}, seed {chosen.seed}."
    text = f"# 600 facts, {BESIDE[chosen.world]}\n\n{about}\n\n{table(rows)}\n\n![](tables_{chosen.world}.png)\n"
    (chosen.out / f"tables_{chosen.world}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
