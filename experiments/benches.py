"""Models with facts to edit, facts to leave alone and facts to protect: the bundled one, and one of real facts."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.editing.keys import collect_keys, prefixed
from lifelong_edit.editing.statistics import StatisticsSettings, begin, collect
from lifelong_edit.facts import EditRequest, canonical_digest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.scores import score_continuations, score_edits
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, question, split_people
from lifelong_edit.world.tasks import held_out_stories
from lifelong_edit.world.text import Writer

EDITED, MEASURED, COHORT, SAMPLE = 600, 700, 50, 100
TEXTS = ("enwiki_sample", "factbook", "books_heldout")
Row = dict[str, Any]
Fact = tuple[str, str]  # prompt, answer


@dataclass(frozen=True)
class Bench:
    """A model with its facts in three groups: edited (`requests`), measured (`untouched`) and `listed`."""

    name: str
    editable: EditableModel
    batch: int
    requests: list[EditRequest]
    untouched: list[Fact]
    listed: list[EditRequest]
    text: list[str]
    held_out: list[str]
    scratch: Path
    contexts: tuple[str, ...] = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "contexts", sample_contexts(self.editable, 5, 0))
        object.__setattr__(self, "fingerprint", fingerprint(self.editable))

    def cached(self, make: Callable[[], Tensor], *causes: Any) -> Tensor:
        """The tensor `make` gives, kept under everything it depends on."""
        path = self.scratch / f"{canonical_digest([self.name, self.fingerprint, *causes])[:24]}.safetensors"
        if not path.is_file():
            save_file({"value": make().contiguous()}, path)
        return load_file(path)["value"]

    def text_moment(self, layer: int) -> Tensor:
        """Second moment [d_in, d_in] over the tokens of generic text."""
        wanted = StatisticsSettings(tokens=200_000 if self.name == "tiny" else 100_000, outlier=None)

        def make() -> Tensor:
            *_, last = collect(self.editable, self.text, wanted, begin(self.editable, [layer]))
            return last.moments[layer].value().matrix

        return self.cached(make, "text", layer, asdict(wanted))

    def entity_moment(self, layer: int, names: str, count: int) -> Tensor:
        """Second moment [d_in, d_in] over the last tokens of listed subjects, bare and prefixed or in their prompts."""

        def make() -> Tensor:
            fronts = self.contexts if names == "bare" else ()
            listed = [replace(r, prompt="{}") for r in self.listed] if names == "bare" else self.listed
            forms = [replace(r, prompt=front + r.prompt) for r in listed[:count] for front in ("", *fronts)]
            keys = collect_keys(self.editable, forms, layer, prefixed(()))  # [d_in, n]
            return keys @ keys.T / keys.shape[1]

        return self.cached(make, "entities", layer, names, count)

    def right(self, facts: Sequence[Fact]) -> list[bool]:
        """Which answers the live model gives."""
        return [score.argmax for score in score_continuations(self.editable.model, self.editable.tokenizer, facts)]

    def perplexity(self) -> float:
        return perplexity(self.editable.model, self.editable.tokenizer, self.held_out)


def known(bench: Bench, facts: Sequence[Fact]) -> list[Fact]:
    """The facts that the live model, before any edit, gets right."""
    return [fact for fact, right in zip(facts, bench.right(facts), strict=True) if right]


def figures(bench: Bench, done: list[EditRequest]) -> Row:
    """Newest and oldest cohort and a sample of all facts edited so far."""
    row: Row = {}
    sample = random.Random(0).sample(done, SAMPLE)
    for name, cohort in (("newest", done[-COHORT:]), ("oldest", done[:COHORT]), ("sample", sample)):
        scores = score_edits(bench.editable, cohort)
        row |= {f"{name} {figure}": getattr(scores, figure) for figure in ("ea", "pa", "na", "ns", "aa")}
    row["all ea"] = mean(bench.right([(request.question, request.target_new) for request in done]))
    return row


def trimmed(request: EditRequest, strangers: set[str]) -> EditRequest:
    """The request without neighbours that are edited or listed, and with few prompts of each sort."""
    fine = [n for n in request.neighborhood_prompts if not any(name in str(n) for name in strangers)]
    return replace(
        request,
        neighborhood_prompts=tuple(fine[:3]),
        paraphrase_prompts=request.paraphrase_prompts[:2],
        attribute_prompts=request.attribute_prompts[:2],
    )


def tiny(scratch: Path, seed: int) -> Bench:
    """The bundled model and its world; listed prompts ask for facts that the listed people have."""
    world, rng = World.generate(BUNDLED_SEED), random.Random(f"front {seed}")
    facts, (_, others) = world.facts_by_subject(), split_people(world, EDITED, seed)
    measured, listed = others[:MEASURED], others[MEASURED:]
    asked = [(person, fact) for person in listed for fact in [rng.choice(facts[person])]]
    texts = [question(world, fact, rng)[0] for _, fact in asked]
    prompts = [text.replace(person, "{}") for (person, _), text in zip(asked, texts, strict=True)]
    return Bench(
        name=f"tiny {seed}",
        editable=EditableModel.open("checkpoints/tiny-world", dtype=torch.float32),
        batch=10,
        requests=[trimmed(request, set(listed)) for request in edit_requests(world, EDITED, seed)],
        untouched=[question(world, rng.choice(facts[person]), rng) for person in measured[:300]],
        listed=[
            EditRequest(prompt=prompt, subject=person, target_new=fact.object, target_true=fact.object)
            for prompt, (person, fact) in zip(prompts, asked, strict=True)
        ],
        text=[document.text for document in Writer(world, "statistics").one_pass()],
        held_out=held_out_stories(world, 60, seed),
        scratch=scratch,
    )


def real(scratch: Path, seed: int) -> Bench:
    """The model of real facts; after the known cases, subjects it may not know are listed too."""
    folder = Path(os.environ["LIFELONG_EDIT_DATA"])
    cases = [case_request(case) for case in json_lines(folder / "data/known_cases.jsonl.gz")]
    random.Random(f"front {seed}").shuffle(cases)
    edited, measured, listed = cases[:EDITED], cases[EDITED : EDITED + MEASURED], cases[EDITED + MEASURED :]
    taken = {request.subject for request in cases}
    more = [case_request(case) for case in json_lines(folder / "data/counterfact_rome_format.jsonl.gz")]
    listed += list({r.subject: r for r in more if r.subject not in taken}.values())
    strangers = {request.subject for request in (*edited, *listed[: len(cases)])}
    article, country, book = (lines_of(folder / f"data/text/{name}.txt.gz") for name in TEXTS)
    text = [line for pair in zip(article, country, strict=False) for line in pair if len(line) > 80]
    return Bench(
        name=f"real {seed}",
        editable=EditableModel.open(folder / "models/real-facts", dtype=torch.float32),
        batch=50,
        requests=[trimmed(request, strangers) for request in edited],
        untouched=[(request.question, str(request.target_true)) for request in measured[:300]],
        listed=listed,
        text=text,
        held_out=[line for line in book if len(line) > 300][:40],
        scratch=scratch,
    )


def case_request(case: Row) -> EditRequest:
    """A CounterFact record as a request."""
    edit = case["requested_rewrite"]
    return EditRequest(
        prompt=edit["prompt"],
        subject=edit["subject"],
        target_new=edit["target_new"]["str"],
        target_true=edit["target_true"]["str"],
        paraphrase_prompts=case["paraphrase_prompts"],
        neighborhood_prompts=case["neighborhood_prompts"],
    )


def json_lines(path: Path) -> list[Row]:
    """The records of a JSONL file; none where there is no file."""
    return [json.loads(line) for line in lines_of(path)] if path.is_file() else []


def lines_of(path: Path) -> list[str]:
    """The lines of a text, packed or not."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()


WORLDS = {"tiny": tiny, "real": real}
