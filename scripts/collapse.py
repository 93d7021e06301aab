"""Stream edits in batch memory until the model collapses, and in joint memory beside it, by batches of 1, 10 and 100.

    python scripts/collapse.py            # docs/collapse.md and docs/collapse.png; the raw rows beside them

Batch memory is the published sequential procedure (ROME for batches of 1, EMMET for larger ones: no ridge, live
targets) in layer 2 of the bundled model; joint memory is the project's default. Every run reads a health budget that
warns and does not stop, so that one sees what comes after: the first red reading is where `on_red="stop"` would have
ended it. Watched facts and those that are measured here are different ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.budget import Budget, OnRed, default_limits
from lifelong_edit.errors import SolveError
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.health import Band
from lifelong_edit.tracking.scores import Pair, score_continuations
from lifelong_edit.tracking.watch import Watch
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.tasks import held_out_stories
from lifelong_edit.world.text import Writer

SIZES, WATCHED, MEASURED, STEP, COHORT = (1, 10, 100), 200, 300, 50, 50
MEMORIES: dict[str, dict[str, Any]] = {
    "batch": {"memory": "batch", "targets": "live", "layers": (2,)},
    "joint": {},
}
Row = dict[str, Any]
MARKER = "<!-- collapse.py writes what follows -->"
PICTURES = {
    "forgotten": "learnt facts forgotten",
    "untouched": "recall of untouched facts",
    "perplexity": "perplexity ratio",
}
FIGURES = ["facts", "efficacy", "newest", "oldest", "forgotten", "untouched", "perplexity"]


@dataclass
class Run:
    """One stream: its editor, its edits, and what is measured of it."""

    editor: LifelongEditor
    edits: list[Pair]
    untouched: list[Pair]
    stories: list[str]

    def __post_init__(self) -> None:
        self.untouched = [fact for fact, said in zip(self.untouched, self.said(self.untouched), strict=True) if said]
        self.base, self.learnt = self.perplexity(), set[int]()

    def said(self, pairs: list[Pair]) -> list[bool]:
        return [score.argmax for score in score_continuations(self.editor.model, self.editor.editable.tokenizer, pairs)]

    def perplexity(self) -> float:
        return perplexity(self.editor.model, self.editor.editable.tokenizer, self.stories)

    def learn(self, start: int, end: int) -> None:
        """Remember which of the new facts were said right after their edit."""
        self.learnt |= {start + i for i, said in enumerate(self.said(self.edits[start:end])) if said}

    def figures(self, count: int) -> Row:
        """What of the first `count` facts is said, of those learnt forgotten, of the rest of the world left."""
        said = self.said(self.edits[:count])
        return {
            "facts": count,
            "efficacy": mean(said),
            "newest": mean(said[-COHORT:]),
            "oldest": mean(said[:COHORT]),
            "forgotten": mean(not said[i] for i in self.learnt) if self.learnt else 0.0,
            "untouched": mean(self.said(self.untouched)),
            "perplexity": self.perplexity() / self.base,
        }


def measure(model: Path, memory: str, size: int, facts: int, seed: int) -> Iterator[Row]:
    """A row every 50 facts; with batches of 100 every 100. A batch that the solver refuses ends the stream."""
    world = World.generate(BUNDLED_SEED)
    asked = untouched_facts(world, WATCHED + MEASURED, facts, seed)
    requests, settings = edit_requests(world, facts, seed), EditorSettings(**MEMORIES[memory])
    watch = Watch(tuple(asked[:WATCHED]), tuple(held_out_stories(world, 20, seed + 1)))
    text = [document.text for document in Writer(world, "statistics").one_pass()] if settings.layers else None
    method = "memit" if memory == "joint" else "rome" if size == 1 else "emmet"
    budget = Budget(every=max(1, STEP // size), on_red=OnRed.warn)
    with (
        tempfile.TemporaryDirectory() as folder,
        LifelongEditor.create(Path(folder) / "s", model, settings, text, dtype=torch.float32, watch=watch) as editor,
    ):
        edits, stories = [(r.question, r.target_new) for r in requests], held_out_stories(world, 60, seed)
        run = Run(editor, edits, asked[WATCHED:], stories)
        yield {**run.figures(COHORT), "facts": 0, "efficacy": 0.0, "newest": 0.0, "oldest": 0.0}
        for start in tqdm(range(0, facts, size), desc=f"{memory}, {size}", unit="batch"):
            try:
                editor.apply(requests[start : start + size], method, budget=budget)
            except SolveError as error:
                yield {"facts": start + size, "refused": str(error)[:100]}
                return
            run.learn(start, start + size)
            if (start + size) % max(STEP, size) == 0:
                health = editor.health(default_limits(editor._session))
                reds = [sign.name for sign in health.signs if sign.band == Band.red]
                if memory == "joint" and (start + size) % 100 == 0:
                    editor.relax()
                yield {**run.figures(start + size), "red": reds}


def rows_of(raw: Path) -> list[Row]:
    """What was measured so far."""
    return [json.loads(line) for line in raw.read_text("utf-8").splitlines()] if raw.is_file() else []


def text_of(rows: list[Row]) -> str:
    """Where the budget would have stopped each run, then every run's figures."""
    stops, lines = [], []
    for (memory, size), own in runs(rows):
        red = next((row for row in own if row.get("red")), None)
        ill = next(
            (row["facts"] for row in own if row.get("untouched", 1) < 0.8 or row.get("perplexity", 1) > 1.2), None
        )
        at = (
            [red["facts"], ", ".join(red["red"]), red["untouched"], red["perplexity"]]
            if red
            else ["never", "", None, None]
        )
        stops.append([memory, size, *at, ill or "never"])
        for row in own[1:]:
            told = (
                [row[name] for name in FIGURES] if "efficacy" in row else [row["facts"], f"refused: {row['refused']}"]
            )
            lines.append([memory, size, *told, ", ".join(row.get("red", []))])
    heads = ["memory", "batch", "red at", "signs", "untouched then", "perplexity then", "< .80 or > 1.2 at"]
    first = tabulate(stops, heads, "github", floatfmt=".3f", missingval="")
    return f"{first}\n\n{tabulate(lines, ['memory', 'batch', *FIGURES, 'red'], 'github', floatfmt='.3f')}"


def runs(rows: list[Row]) -> Iterator[tuple[tuple[str, int], list[Row]]]:
    """The rows of every run that was measured, by memory and batch size."""
    for memory, size in itertools.product(MEMORIES, SIZES):
        own = [row for row in rows if (row["memory"], row["size"]) == (memory, size)]
        if own:
            yield (memory, size), own


def picture(rows: list[Row], path: Path) -> None:
    """Forgotten share, untouched recall and perplexity by the number of edits; a dot where the budget turns red."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 3), PICTURES.items(), strict=True):
        for (memory, size), every in runs(rows):
            own = [row for row in every if "efficacy" in row]
            style = {"color": f"C{SIZES.index(size)}", "linestyle": "-" if memory == "batch" else "--"}
            axes.plot([r["facts"] for r in own], [r[name] for r in own], label=f"{memory}, {size}", **style)
            red = next((r for r in own if r.get("red")), None)
            if red:
                axes.plot(red["facts"], red[name], "o", color="red", markersize=5)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("edits")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--facts", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--table", action="store_true", help="only write what was measured")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    raw = chosen.out / "collapse.jsonl"
    for size in SIZES[::-1]:
        for memory in MEMORIES:
            known = any((row["memory"], row["size"]) == (memory, size) for row in rows_of(raw))
            if not known and not chosen.table:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    rows = list(measure(chosen.model, memory, size, chosen.facts, chosen.seed))
                with raw.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"memory": memory, "size": size, **row}) + "\n" for row in rows)
    rows = rows_of(raw)
    picture(rows, chosen.out / "collapse.png")
    page = chosen.out / "collapse.md"
    above = page.read_text("utf-8").split(MARKER)[0] if page.is_file() else ""
    page.write_text(f"{above}{MARKER}\n\n{text_of(rows)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
