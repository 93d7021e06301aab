"""The metrics on 200 real records against a plain implementation: one pass a continuation, nothing of the package."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import pytest
import torch

from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.scores import measure
from tests.real_data import FOLDER, NEEDS_REAL_DATA

Record = dict[str, Any]
RECORDS, SPOKEN = 200, 8  # scored, and listened to: without a cache that takes a pass for every token
NEIGHBOURS = 3  # neighbourhood and attribute prompts of a record that are used

pytestmark = NEEDS_REAL_DATA


@pytest.fixture(scope="module")
def records() -> list[Record]:
    path = FOLDER / "data" / "counterfact_rome_format.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, RECORDS)]


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return EditableModel.open(FOLDER / "models" / "real-facts", dtype=torch.float32)


def request_of(record: Record) -> EditRequest:
    rewrite = record["requested_rewrite"]
    new = rewrite["target_new"]["str"]
    return EditRequest(
        rewrite["prompt"],
        rewrite["subject"],
        new,
        rewrite["target_true"]["str"],
        paraphrase_prompts=record["paraphrase_prompts"],
        neighborhood_prompts=record["neighborhood_prompts"][:NEIGHBOURS],
        attribute_prompts=tuple((prompt, new) for prompt in record["attribute_prompts"][:NEIGHBOURS]),
        generation_prompts=record["generation_prompts"][:1],
    )


class Plain:
    """The definitions, one prompt at a time."""

    def __init__(self, editable: EditableModel) -> None:
        self.model, self.tokenizer = editable.model, editable.tokenizer

    @torch.no_grad()
    def forced(self, prompt: str, target: str) -> tuple[float, list[bool]]:
        """The mean loss of the target's tokens, and which of them are the top token."""
        head, ids = self.tokenizer(prompt).input_ids, self.tokenizer(f"{prompt} {target}").input_ids
        assert ids[: len(head)] == head
        logits = self.model(input_ids=torch.tensor([ids])).logits[0].double()
        places = range(len(head), len(ids))
        losses = [-float(logits[place - 1].log_softmax(-1)[ids[place]]) for place in places]
        return fmean(losses), [int(logits[place - 1].argmax()) == ids[place] for place in places]

    @torch.no_grad()
    def says(self, prompt: str, length: int, stop: int | None) -> str:
        ids = self.tokenizer(prompt).input_ids
        start = len(ids)
        while len(ids) < start + length:
            following = int(self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if following == stop:
                break
            ids.append(following)
        return str(self.tokenizer.decode(ids[start:], skip_special_tokens=True))

    def scored(self, record: Record) -> Iterator[tuple[str, float]]:
        """Name and value of every teacher-forced metric of the record."""
        rewrite = record["requested_rewrite"]
        new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
        places = {
            "rewrite": ([rewrite["prompt"].format(rewrite["subject"])], new, true),
            "paraphrase": (record["paraphrase_prompts"], new, true),
            "neighbourhood": (record["neighborhood_prompts"][:NEIGHBOURS], true, new),
            "attribute": (record["attribute_prompts"][:NEIGHBOURS], new, None),
        }
        for place, (prompts, wanted, other) in places.items():
            own = [self.forced(prompt, wanted) for prompt in prompts]
            yield f"{place}/argmax", fmean(all(hits) for _, hits in own)
            yield f"{place}/token-accuracy", fmean(sum(hits) / len(hits) for _, hits in own)
            if other is not None:
                pairs = [(loss, self.forced(prompt, other)[0]) for (loss, _), prompt in zip(own, prompts, strict=True)]
                yield f"{place}/prob", fmean(loss < rival for loss, rival in pairs)
                yield f"{place}/magnitude", fmean(math.exp(-loss) - math.exp(-rival) for loss, rival in pairs)


def entropy(text: str) -> float:
    words = re.findall(r"\w+|[^\w\s]", text)
    total = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        shares = [count / sum(counts.values()) for count in counts.values()]
        total += weight * -sum(share * math.log(share, 2) for share in shares)
    return 100 * total / 2


def test_teacher_forced_metrics_of_200_records(editable: EditableModel, records: list[Record]) -> None:
    plain = Plain(editable)
    expected: dict[str, list[float]] = {}
    for record in records:
        for name, value in plain.scored(record):
            expected.setdefault(name, []).append(value)
    found = measure(editable, [request_of(record) for record in records], [*expected, "harmonic/prob"])
    for name, values in expected.items():
        assert found[name].count == RECORDS
        assert found[name].each == pytest.approx(values, rel=0, abs=1e-5), name
        assert found[name].value == pytest.approx(fmean(values), rel=0, abs=1e-5)
    rates = [fmean(expected[f"{place}/prob"]) for place in ("rewrite", "paraphrase", "neighbourhood")]
    assert found["harmonic/prob"].value == pytest.approx(3 / sum(1 / rate for rate in rates), rel=0, abs=1e-5)


def test_what_the_model_says_to_some_of_them(editable: EditableModel, records: list[Record]) -> None:
    plain, some = Plain(editable), records[-SPOKEN:]
    stop = editable.tokenizer.eos_token_id
    names = ("rewrite/greedy", "paraphrase/greedy", "neighbourhood/greedy", "generation/greedy-entropy")
    found = measure(editable, [request_of(record) for record in some], names)
    for number, record in enumerate(some):
        rewrite = record["requested_rewrite"]
        new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
        question, neighbours = rewrite["prompt"].format(rewrite["subject"]), record["neighborhood_prompts"][:NEIGHBOURS]
        values = (
            float(new in plain.says(question, 50, stop)),
            fmean(new in plain.says(prompt, 50, stop) for prompt in record["paraphrase_prompts"]),
            fmean(true in plain.says(prompt, 50, stop) for prompt in neighbours),
            entropy(plain.says(record["generation_prompts"][0], 100, None)),
        )
        assert [found[name].each[number] for name in names] == pytest.approx(values, rel=0, abs=1e-5)
    assert any(found["neighbourhood/greedy"].each)
