"""Stream edits in batch memory until the model collapses, and in joint memory beside it, by batches of 1, 10 and 100.

    python experiments/collapse.py            # docs/collapse.md and docs/collapse.png; the raw rows beside them

Batch memory is the published sequential procedure (ROME for batches of 1, EMMET for larger ones: no ridge, live
targets) in layer 2 of the bundled model; joint memory is the project's default; beside it joint memory with no ridge
and no limit to the amplification of a solve, which breaks where the facts are as many as the directions. Every run
reads a health budget that warns and does not stop, so that one sees what comes after: the first red reading is where
`on_red="stop"` would have ended it. Watched facts and those that are measured here are different ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from tqdm import tqdm

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import HealthStop, SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.budget import Budget, OnRed
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.health import Band
from lifelong_edit.tracking.scores import Question, score_continuations
from lifelong_edit.tracking.watch import Watch
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.tasks import held_out_stories
from lifelong_edit.world.text import Writer
from results import markdown, rows_of, write_below

SIZES, WATCHED, MEASURED, STEP, COHORT = (1, 10, 100), 200, 300, 50, 50
MEMORIES: dict[str, dict[str, Any]] = {
    "batch": {"memory": "batch", "targets": "live", "layers": (2,)},
    "joint": {},
    "joint, no ridge": {"amplification_limit": 1e12},
}
RUNS = [*(("batch", size) for size in SIZES[::-1]), ("joint", 100), ("joint", 10), ("joint, no ridge", 100)]
STOPPED = ("batch, stopped", 10)
Row = dict[str, Any]
MARKER = "<!-- collapse.py writes what follows -->"
PICTURES = {
    "forgotten": "learnt facts forgotten",
    "untouched": "recall of untouched facts",
    "perplexity": "perplexity ratio",
}
LINES = {"batch": "-", "joint": "--", "joint, no ridge": ":"}
FIGURES = ["facts", "efficacy", "newest", "oldest", "forgotten", "untouched", "perplexity"]


@dataclass
class Run:
    """One stream: its editor, its edits, and what is measured of it."""

    editor: LifelongEditor
    edits: list[Question]
    untouched: list[Question]
    stories: list[str]

    def __post_init__(self) -> None:
        self.untouched = [fact for fact, said in zip(self.untouched, self.said(self.untouched), strict=True) if said]
        self.base, self.learnt = self.perplexity(), set[int]()

    def said(self, pairs: list[Question]) -> list[bool]:
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
            "cohorts": [round(mean(said[start : start + 100]), 3) for start in range(0, count, 100)],
            "forgotten": mean(not said[i] for i in self.learnt) if self.learnt else 0.0,
            "untouched": mean(self.said(self.untouched)),
            "perplexity": self.perplexity() / self.base,
        }


def created(folder: str, model: Path, choices: dict[str, Any], watch: Watch) -> LifelongEditor:
    """An editor on a new store; layers that the bundled statistics do not cover need a second moment of their own."""
    settings, world = EditorSettings(target=TargetSettings(), **choices), World.generate(BUNDLED_SEED)
    text = [document.text for document in Writer(world, "statistics").one_pass()] if settings.layers else None
    return LifelongEditor.create(Path(folder) / "store", model, settings, text, dtype=torch.float32, watch=watch)


def watch_of(world: World, facts: Sequence[Question], seed: int) -> Watch:
    """What the budget is read on: these facts, and stories that nothing else is measured on."""
    return Watch(tuple(facts), tuple(held_out_stories(world, 20, seed + 1)))


def method_of(memory: str, size: int) -> str:
    """The default in joint memory; elsewhere without a ridge."""
    return "memit" if memory == "joint" else "rome" if memory == "batch" and size == 1 else "emmet"


def measure(model: Path, memory: str, size: int, facts: int, seed: int) -> Iterator[Row]:
    """A row every 50 facts; with batches of 100 every 100. A batch that the solver refuses ends the stream."""
    world = World.generate(BUNDLED_SEED)
    asked = untouched_facts(world, WATCHED + MEASURED, facts, seed)
    requests, watch = edit_requests(world, facts, seed), watch_of(world, asked[:WATCHED], seed)
    method, budget = method_of(memory, size), Budget(every=max(1, STEP // size), on_red=OnRed.warn)
    with tempfile.TemporaryDirectory() as folder, created(folder, model, MEMORIES[memory], watch) as editor:
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
                reds = [sign.name for sign in editor.health().signs if sign.band == Band.red]
                if memory == "joint" and (start + size) % 100 == 0:
                    editor.relax()
                yield {**run.figures(start + size), "red": reds}


def stopped(run: Run, requests: Sequence[EditRequest], method: str, size: int, budget: Budget) -> Row:
    """Stream with a budget that stops: how many facts went in, what was refused and why, what is left of the rest."""
    for start in range(0, len(requests), size):
        before = run.editor.head
        try:
            run.editor.apply(requests[start : start + size], method, budget=budget)
        except HealthStop as stop:
            left = {"untouched": mean(run.said(run.untouched)), "perplexity": run.perplexity() / run.base}
            kept = run.editor.head == before
            return {"facts": start, "exit": stop.exit_code, "said": str(stop), "unchanged": kept, **left}
    raise RuntimeError(f"The budget stopped none of {len(requests)} edits.")


def ending(row: Row) -> str:
    """How a stream ended that was stopped, in words."""
    store = "was not changed" if row["unchanged"] else "WAS CHANGED"
    return (
        f"Under `OnRed.stop` it ends with {row['facts']} facts, untouched recall {row['untouched']:.3f} and perplexity "
        f"ratio {row['perplexity']:.3f}; the refused batch raises `HealthStop` (exit code {row['exit']}) and the store "
        f"{store}: *{row['said']}*"
    )


def stop(model: Path, size: int, facts: int, seed: int) -> Row:
    """How the collapsing stream ends under a budget that stops it."""
    world = World.generate(BUNDLED_SEED)
    requests, asked = edit_requests(world, facts, seed), untouched_facts(world, WATCHED + MEASURED, facts, seed)
    watch = watch_of(world, asked[:WATCHED], seed)
    with tempfile.TemporaryDirectory() as folder, created(folder, model, MEMORIES["batch"], watch) as editor:
        run = Run(editor, [], asked[WATCHED:], held_out_stories(world, 60, seed))
        return stopped(run, requests, method_of("batch", size), size, Budget(every=max(1, STEP // size)))


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
            said = f"refused: {row['refused'].split('.')[0]}" if "refused" in row else ", ".join(row["red"])
            lines.append([memory, size, row["facts"], *(row.get(name) for name in FIGURES[1:]), said])
    heads = ["memory", "batch", "red at", "signs", "untouched then", "perplexity then", "< .80 or > 1.2 at"]
    first = markdown(stops, heads)
    ends = [f"The run in batch memory, {row['size']}. {ending(row)}" for row in rows if "exit" in row]
    every = markdown(lines, ["memory", "batch", *FIGURES, "red"])
    matrices = [matrix(own) for _, own in runs(rows)]
    return "\n\n".join(part for part in [first, *ends, every, *matrices] if part)


def matrix(own: list[Row]) -> str:
    """Efficacy by cohort of 100 facts and number of facts, where it was measured."""
    rows = [row for row in own if row.get("cohorts") and row["facts"] and row["facts"] % 100 == 0]
    if not rows:
        return ""
    lines = [
        [f"{100 * i + 1} to {100 * i + 100}", *(row["cohorts"][i] if i < len(row["cohorts"]) else None for row in rows)]
        for i in range(len(rows[-1]["cohorts"]))
    ]
    head = f"{rows[0]['memory']}, {rows[0]['size']}: efficacy by cohort"
    return markdown(lines, [head, *(row["facts"] for row in rows)], ".2f")


def runs(rows: list[Row]) -> Iterator[tuple[tuple[str, int], list[Row]]]:
    """The rows of every run that was measured, by memory and batch size."""
    for memory, size in RUNS:
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
            style = {"color": f"C{SIZES.index(size)}", "linestyle": LINES[memory]}
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
    warnings.simplefilter("ignore")  # the budget warns at every reading
    raw, given = chosen.out / "collapse.jsonl", (chosen.facts, chosen.seed)
    for memory, size in [] if chosen.table else [*RUNS, STOPPED]:
        if not any((row["memory"], row["size"]) == (memory, size) for row in rows_of(raw)):
            stops = (memory, size) == STOPPED
            rows = [stop(chosen.model, size, *given)] if stops else measure(chosen.model, memory, size, *given)
            lines = [json.dumps({"memory": memory, "size": size, **row}) + "\n" for row in rows]
            with raw.open("a", encoding="utf-8") as file:
                file.writelines(lines)
    rows = rows_of(raw)
    picture(rows, chosen.out / "collapse.png")
    write_below(chosen.out / "collapse.md", MARKER, text_of(rows))


if __name__ == "__main__":
    main()
