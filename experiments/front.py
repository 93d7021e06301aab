"""Stream facts under many settings and find the front between what holds (efficacy) and what stays (untouched recall).

    python experiments/front.py world=tiny memory=joint,batch ridge=0.03,0.1     # every combination of the values given
    LIFELONG_EDIT_DATA=... python experiments/front.py world=real layers=1 entities=1 stop=0.2
    python experiments/front.py --table                                          # docs/front.md and docs/front.png

`world=tiny` edits the bundled model in batches of 10, `world=real` edits known CounterFact cases on the model
`real-facts` in batches of 50. What is measured is kept out of what is protected: a third group of subjects, neither
edited nor measured, gives the entities of the second moment. Rows go to a JSONL file with all their settings, and what
it holds is not measured again. Targets on the base weights and second moments are kept in a scratch folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean as mean

import torch
from torch import Tensor

from benches import EDITED, WORLDS, Bench, Row, figures, json_lines, known
from lifelong_edit.algebra.second_moment import Metric, SecondMoment
from lifelong_edit.algebra.system import Columns, Memory, Pair, append, base_residuals, fold, materialise
from lifelong_edit.editing.keys import collect_keys, prefixed
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings, optimise_targets
from lifelong_edit.errors import SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel.write import LayerState, spread
from results import markdown, write_below

BLOCK = 100
COLUMNS = ["all ea", "newest ea", "oldest ea", *(f"sample {figure}" for figure in ("pa", "ns", "na", "aa"))]
COLUMNS += ["untouched", "listed", "ppl"]
MARKER = "<!-- front.py --table writes what follows -->"


@dataclass(frozen=True)
class Point:
    """The settings of one stream; the defaults are the project's but for `ridge`, 0.41 of the mean key mass, not 0.5.

    `ridge` is relative to g, the mean Gram diagonal of the stream's keys. The second moment is that of text plus
    `entities` times that of the last tokens of `count` listed names (`names`: bare | prompts). Before every measurement
    come, for the facts that miss (bare or behind one of `heed` contexts), `relax` passes that halve their ridge, then
    `refine` passes that find them new targets on the live weights.
    """

    world: str = "tiny"
    facts: int = EDITED
    memory: str = "joint"
    targets: str = "base"
    layers: str = "1"
    ridge: float = 0.067
    entities: float = 0.0
    names: str = "bare"
    count: int = 1200
    contexts: int = 3
    stop: float = 0.05
    clamp: float = 1.5
    kl: float = 0.0625
    refine: int = 0
    relax: int = 0
    heed: int = 0
    seed: int = 0

    @classmethod
    def of(cls, row: Row) -> Point:
        """The settings of a measured row."""
        return cls(**{f.name: row[f.name] for f in fields(cls) if f.name in row})

    @property
    def edited_layers(self) -> list[int]:
        return [int(layer) for layer in self.layers.split("+")]

    @property
    def target(self) -> TargetSettings:
        return TargetSettings(stop=self.stop, clamp=self.clamp, kl=self.kl)

    def about(self) -> str:
        """What differs from the defaults."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("world", "facts")}
        return " ".join(f"{k}={v}" for k, v in own.items() if v != getattr(Point(), k)) or "defaults"


def metric_of(bench: Bench, layer: int, point: Point) -> Metric:
    """The point's mixture of second moments."""
    matrix = bench.text_moment(layer)
    if point.entities:
        matrix = matrix + point.entities * bench.entity_moment(layer, point.names, point.count)
    return Metric.from_moment(SecondMoment(matrix, 1), EditorSettings().shrinkage)


def targets_of(bench: Bench, point: Point) -> Tensor:
    """Target deltas [d_out, facts] on the base weights, in blocks that other points share."""
    layer, contexts, blocks = max(point.edited_layers), bench.contexts[: point.contexts], []
    for start in range(0, point.facts, BLOCK):
        groups = [[request] for request in bench.requests[start : start + BLOCK]]

        def make(groups: list[list[EditRequest]] = groups) -> Tensor:
            return optimise_targets(bench.editable, groups, layer, contexts, point.target).delta

        blocks.append(bench.cached(make, "targets", layer, point.contexts, asdict(point.target), start))
    return torch.cat(blocks, dim=1)


class Stream:
    """The state of one stream: columns and pairs of every edited layer; the live model holds the weights."""

    def __init__(self, bench: Bench, point: Point) -> None:
        self.bench, self.point, self.layers = bench, point, point.edited_layers
        self.editable, self.contexts = bench.editable, bench.contexts[: point.contexts]
        self.base = {layer: self.editable.weight(layer) for layer in self.layers}
        self.metrics = {layer: metric_of(bench, layer, point) for layer in self.layers}
        self.ridges = {layer: point.ridge * self.mean_mass(layer) for layer in self.layers}
        self.columns: dict[int, list[Columns]] = {layer: [] for layer in self.layers}
        self.pairs = {layer: [Pair.empty(*self.base[layer].shape)] for layer in self.layers}

    def mean_mass(self, layer: int) -> float:
        """g, the mean of k'C^-1 k over the stream's keys."""
        keys = collect_keys(self.editable, self.bench.requests, layer, prefixed(self.contexts))
        return (keys * self.metrics[layer].whiten(keys)).sum(0).mean().item()

    def targets(self, batch: list[EditRequest]) -> Tensor:
        """Target deltas [d_out, n] on the live weights."""
        groups = [[request] for request in batch]
        return optimise_targets(self.editable, groups, self.layers[-1], self.contexts, self.point.target).delta

    def place(self, layer: int, columns: Columns) -> Tensor:
        """The layer's weight with one more batch."""
        earlier = Pair.concatenate(self.pairs[layer])
        self.columns[layer].append(columns)
        self.pairs[layer].append(append(columns, earlier, Memory(self.point.memory)))
        return materialise(self.base[layer], self.pairs[layer])

    def add(self, batch: list[EditRequest], delta: Tensor, on_base: bool) -> None:
        """Write one batch for its target deltas [d_out, n]."""
        ridge, names = torch.ones(len(batch), dtype=torch.float64), [request.subject for request in batch]
        states = {
            n: LayerState(self.base[n], self.metrics[n], Pair.concatenate(self.pairs[n]), ridge * self.ridges[n], {})
            for n in self.layers
        }
        spread(self.editable, batch, names, delta, on_base, states, prefixed(self.contexts), self.place)
        self.editable.set_weights({n: materialise(self.base[n], self.pairs[n]) for n in self.layers})

    def missing(self, done: list[EditRequest]) -> list[int]:
        """Which facts the live model does not state, bare or behind one of `heed` contexts."""
        fronts = ("", *self.bench.contexts[: self.point.heed])
        right = self.bench.right([(front + r.question, r.target_new) for r in done for front in fronts])
        return [i for i in range(len(done)) if not all(right[i * len(fronts) : (i + 1) * len(fronts)])]

    def relax(self, done: list[EditRequest]) -> int:
        """Half the ridge for the facts that miss; how many did. Joint memory."""
        missing = self.missing(done)
        for layer in self.layers if missing else []:
            every = Columns.concatenate(self.columns[layer])
            ridge = every.ridge.clone()
            ridge[missing] /= 2
            self.refit(layer, replace(every, ridge=ridge))
        return len(missing)

    def refine(self, done: list[EditRequest]) -> int:
        """New live targets for the facts that miss, an equal share a layer; how many did. Joint memory."""
        missing = self.missing(done)
        if not missing:
            return 0
        share = self.targets([done[i] for i in missing]) / len(self.layers)
        for layer in self.layers:
            every = Columns.concatenate(self.columns[layer])
            values = every.base_residuals.clone()
            values[:, missing] = base_residuals(share, every.keys[:, missing], self.pairs[layer])
            self.refit(layer, replace(every, base_residuals=values))
        return len(missing)

    def refit(self, layer: int, columns: Columns) -> None:
        """Joint memory with these columns in place of all earlier ones."""
        self.columns[layer], self.pairs[layer] = [columns], fold([columns], Memory.joint)
        self.editable.set_weight(layer, materialise(self.base[layer], self.pairs[layer]))


def stream(bench: Bench, point: Point, stops: Sequence[int]) -> Iterator[Row]:
    """One stream; a row at each stop. A stream that the solver refuses ends there, and says so."""
    base = {layer: bench.editable.weight(layer) for layer in point.edited_layers}
    listed = [(request.question, str(request.target_true)) for request in bench.listed[:150]]
    untouched, listed, ppl = known(bench, bench.untouched), known(bench, listed), bench.perplexity()
    with bench.editable.rewritten(base):
        state = Stream(bench, point)
        deltas = targets_of(bench, point) if point.targets == "base" else torch.empty(0)
        for start in range(0, point.facts, bench.batch):
            done = bench.requests[: start + bench.batch]
            try:
                batch, on_base = done[start:], point.targets == "base"
                delta = deltas[:, start : start + bench.batch] if on_base else state.targets(batch)
                state.add(batch, delta, on_base)
                if len(done) in stops:
                    missed = [state.relax(done) for _ in range(point.relax)]
                    missed += [state.refine(done) for _ in range(point.refine)]
            except SolveError as error:
                yield {"at": len(done), "refused": str(error)[:120]}
                return
            if len(done) in stops:
                row = {"at": len(done), "stops": list(stops), **figures(bench, done), "missed": missed}
                row |= {"untouched": mean(bench.right(untouched)), "listed": mean(bench.right(listed))}
                yield row | {"ppl": bench.perplexity() / ppl}


def points(assignments: Sequence[str]) -> list[Point]:
    """Every combination of the values in `name=value,value` texts."""
    kinds = {f.name: type(getattr(Point(), f.name)) for f in fields(Point)}
    lists = {name: values.split(",") for name, values in (text.split("=", 1) for text in assignments)}
    cast = [[kinds[name](value) for value in values] for name, values in lists.items()]
    return [Point(**dict(zip(lists, values, strict=True))) for values in itertools.product(*cast)]


def best(rows: list[Row]) -> list[Row]:
    """The rows that no other beats in both weakest efficacy and untouched recall."""
    places = [(efficacy(row), row["untouched"]) for row in rows]
    beaten = [any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in places) for p in places]
    return [row for row, lost in zip(rows, beaten, strict=True) if not lost]


def efficacy(row: Row) -> float:
    """The weaker of all facts and the oldest ones."""
    return min(float(row["all ea"]), float(row["oldest ea"]))


def table(rows: list[Row]) -> str:
    """All rows as Markdown, best untouched recall first; an asterisk marks the front."""
    front, lines = best(rows), []
    for row in sorted(rows, key=lambda row: -row["untouched"]):
        mark = "*" if row in front else ""
        lines.append([mark, Point.of(row).about(), *(row[name] for name in COLUMNS)])
    return markdown(lines, ["", "differs from the defaults in", *COLUMNS])


def report(rows: list[Row], text: Path) -> None:
    """The tables below the marker of `text`, whose prose above it stays, and the picture beside it."""
    refused = [f"{row['world']}, {row['at']} facts, {Point.of(row).about()}" for row in rows if "refused" in row]
    groups: dict[tuple[str, int], list[Row]] = {}
    latest = {(row["world"], row["at"], Point.of(row).about()): row for row in rows if "refused" not in row}
    for (world, at, _), row in latest.items():
        groups.setdefault((world, at), []).append(row)
    parts = [f"## {world}, {at} facts\n\n{table(groups[world, at])}" for world, at in sorted(groups, reverse=True)]
    parts = [*parts, f"Streams that the solver refused: {'; '.join(refused) or 'none'}."]
    write_below(text, MARKER, "\n\n".join(parts), above="# The front\n\n")
    picture(groups, text.with_suffix(".png"))


def picture(groups: dict[tuple[str, int], list[Row]], path: Path) -> None:
    """Untouched recall against efficacy, a panel for each world at its telling number of facts."""
    from matplotlib.figure import Figure  # the extra `report`

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, group in zip(figure.subplots(1, 2), (("tiny", 600), ("real", 300)), strict=True):
        kinds: dict[str, list[Row]] = {"plain": [], "new targets for misses": [], "lower ridge for misses": []}
        for row in groups[group]:
            point = Point.of(row)
            kinds[list(kinds)[2 if point.relax else bool(point.refine)]].append(row)
        for name, own in kinds.items():
            axes.scatter([row["untouched"] for row in own], [efficacy(row) for row in own], label=name, s=28)
        front = sorted((row["untouched"], efficacy(row)) for row in best(groups[group]))
        axes.plot(*zip(*front, strict=True), color="grey", linewidth=1, zorder=0)
        axes.set(
            title=f"{group[0]}, {group[1]} facts", xlabel="untouched recall", ylabel="efficacy: all, oldest (lower)"
        )
        axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="name=value,value: fields of Point")
    parser.add_argument("--stops", type=int, nargs="+", default=[100, 200, 300, 400, 500, 600])
    parser.add_argument("--raw", type=Path, default=Path("docs/front.jsonl"))
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "front")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        report(json_lines(options.raw), options.raw.with_suffix(".md"))
        return
    measured = {(Point.of(row), row["at"]) for row in json_lines(options.raw)}
    options.scratch.mkdir(exist_ok=True)
    benches: dict[tuple[str, int], Bench] = {}
    for point in points(options.settings):
        if all((point, stop) in measured for stop in options.stops if stop <= point.facts):
            continue
        place = point.world, point.seed
        benches[place] = benches.get(place) or WORLDS[point.world](options.scratch, point.seed)
        rows = [{**asdict(point), **row} for row in stream(benches[place], point, options.stops)]
        with options.raw.open("a") as raw:
            raw.writelines(json.dumps(row) + "\n" for row in rows)
        print(point.about(), {name: rows[-1].get(name) for name in ("at", "refused", *COLUMNS)}, flush=True)


if __name__ == "__main__":
    main()
