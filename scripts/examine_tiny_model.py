"""Measure the bundled model, take its second moments, and write its model card.

    python scripts/examine_tiny_model.py --model checkpoints/tiny-world --layers 1

Reads the model's folder and `tiny_model_card.md` beside this script; writes `second_moments/` and `README.md` into it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

from lifelong_edit.cli.options import hide_loading_bars
from lifelong_edit.editing.second_moments import beside_model, collected_moments
from lifelong_edit.editing.statistics import StatisticsSettings
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.scores import argmax_rate
from lifelong_edit.tracking.trace import Trace, causal_trace
from lifelong_edit.world.generator import BUNDLED_SEED, World, WorldFact
from lifelong_edit.world.schema import KINDS
from lifelong_edit.world.tasks import downstream_tasks, held_out_stories
from lifelong_edit.world.text import Writer

SEED = 0
FACTS, TASKS, STORIES, TRACED = 1_500, 200, 300, 100
Figure = tuple[str, str, float]  # what, on what, value
SOURCE = Path(__file__).with_name("tiny_model_card.md")


def take_moments(editable: EditableModel, folder: Path, layers: list[int]) -> None:
    """Second moments of `layers` over generic text of the world, written beside the model."""
    texts = [document.text for document in Writer(World.generate(BUNDLED_SEED), "statistics").one_pass()]
    settings = StatisticsSettings(outlier=None)
    with tempfile.TemporaryDirectory() as scratch, tqdm(total=settings.tokens, unit="tok", unit_scale=True) as bar:

        def show(done: int, _wanted: int) -> None:
            bar.update(done - bar.n)

        (files,) = collected_moments(editable, fingerprint(editable), layers, [texts], settings, Path(scratch), show)
    for layer, data in files.items():
        path = beside_model(folder, layer)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def questions(world: World, facts: list[WorldFact], held_out: bool, openers: Writer | None) -> list[tuple[str, str]]:
    """Every fact as (prompt, object) in one of its subject's seen or held-out templates, maybe after a sentence."""
    rng = random.Random(f"examine {held_out}")
    prompts = [rng.choice(world.relation(f).split_for(f.subject)[held_out]).replace("{}", f.subject) for f in facts]
    fronts = [f"{openers.sentence()} " if openers else "" for _ in facts]
    return [(front + prompt, f.object) for front, prompt, f in zip(fronts, prompts, facts, strict=True)]


def recall(editable: EditableModel, world: World) -> Iterator[Figure]:
    """Share of facts whose whole object is the first choice, to each kind of subject."""
    rng, openers = random.Random(f"examine {SEED}"), Writer(world, f"openers {SEED}")
    for kind in ("any subject", *KINDS):
        facts = [fact for fact in world.facts if kind in ("any subject", world.relation(fact).subject)]
        facts = rng.sample(facts, min(FACTS, len(facts)))
        for name, held_out, front in (
            ("templates seen with the subject", False, None),
            ("templates held out for the subject", True, None),
            ("held-out templates after an unrelated sentence", True, openers),
        ):
            pairs = questions(world, facts, held_out, front)
            yield f"recall, {kind} ({len(facts)} facts)", name, argmax_rate(editable.model, editable.tokenizer, pairs)


def abilities(editable: EditableModel, world: World) -> Iterator[Figure]:
    """Accuracy on skills and two-hop questions, and perplexity of held-out stories."""
    for name, tasks in downstream_tasks(world, TASKS, SEED).items():
        yield name, f"accuracy on {TASKS} tasks", argmax_rate(editable.model, editable.tokenizer, tasks)
    stories = held_out_stories(world, STORIES, SEED)
    yield "stories", f"perplexity of {STORIES} held out", perplexity(editable.model, editable.tokenizer, stories)


def traced_facts(world: World, count: int) -> list[EditRequest]:
    """`count` facts about people in held-out templates with the subject first or in the middle."""
    rng = random.Random(f"trace {SEED}")
    people = [fact for fact in world.facts if world.relation(fact).subject == "person"]
    requests = []
    for fact in rng.sample(people, count):
        held_out = world.relation(fact).split_for(fact.subject)[1]
        templates = [text for text in held_out if not text.endswith(("Answer:", "{}"))]
        requests.append(EditRequest(rng.choice(templates), fact.subject, fact.object))
    return requests


def trace_table(trace: Trace) -> str:
    """The trace as Markdown: recovered share of the clean probability to each block."""
    subject, prompt = trace.recovered()
    rows = zip(range(len(subject)), subject, prompt, strict=True)
    text: str = tabulate(rows, ["block", "subject's last token", "prompt's last token"], "github", floatfmt=".3f")
    return text


def card(editable: EditableModel, world: World, figures: list[Figure], trace: Trace, layers: list[int]) -> str:
    """The model card: the text beside this script with the figures in it."""
    config = editable.model.config
    parameters = sum(parameter.numel() for parameter in editable.model.parameters())
    values = {
        "figures": tabulate(figures, ["what", "on what", "value"], "github", floatfmt=".3f"),
        "trace": trace_table(trace),
        "clean": f"{trace.clean:.3f}",
        "corrupted": f"{trace.corrupted:.3f}",
        "traced": str(TRACED),
        "parameters": f"{parameters / 1e6:.2f} million",
        "blocks": str(config.num_hidden_layers),
        "width": str(config.hidden_size),
        "inner": str(config.intermediate_size),
        "vocabulary": str(config.vocab_size),
        "facts": f"{len(world.facts):,}",
        "entities": ", ".join(f"{len(world.entities[kind]):,} × {kind}" for kind in KINDS),
        "relations": str(len(world.schema.relations)),
        "layers": " ".join(map(str, layers)),
        "tokens": f"{StatisticsSettings().tokens:,}",
    }
    text = SOURCE.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"<<{name}>>", value)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--layers", type=int, nargs="+", default=[1])  # where edits are made by default
    options = parser.parse_args()
    hide_loading_bars()
    world, editable = World.generate(BUNDLED_SEED), EditableModel.open(options.model, dtype=torch.float32)
    take_moments(editable, options.model, options.layers)
    figures = [*recall(editable, world), *abilities(editable, world)]
    print(tabulate(figures, ["what", "on what", "value"], floatfmt=".3f"))
    trace = causal_trace(editable, traced_facts(world, TRACED), seed=SEED)
    print(f"\nCausal trace: clean {trace.clean:.3f}, corrupted {trace.corrupted:.3f}\n{trace_table(trace)}")
    text = card(editable, world, figures, trace, options.layers)
    (options.model / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
