"""Edits get wordings out of their relation's templates: as many as asked for, and none that measures them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong_edit.datasets.dataset import Dataset, Imported, open_dataset, templates_in
from lifelong_edit.datasets.jsonl import MAX_LINE
from lifelong_edit.datasets.templates import read_templates, worded
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import MAX_PROMPT, EditRequest
from tests.real_data import FOLDER, NEEDS_REAL_DATA

HOME = [f"{{}} {verb} in" for verb in ("is", "lives", "dwells", "stays", "resides")]
TOWNS = ["{} lies in", "{} is part of"]
FACT = EditRequest(HOME[0], "Ada Quill", "Oran")
ROWS = [
    {"prompt": prompt, "subject": subject, "target_new": "Oran", "id": f"{subject}-{number}", "relation_id": relation}
    for relation, subject, prompts in (("P551", "Ada", HOME), ("P131", "Tarsis", TOWNS), (None, "Bo", ["{} says"]))
    for number, prompt in enumerate(prompts)
]


def written(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def imported(path: Path, **choices: Any) -> tuple[Dataset, dict[str, EditRequest]]:
    with open_dataset(path, **choices) as dataset:
        return dataset, {str(one.request.id): one.request for one in dataset if isinstance(one, Imported)}


@given(st.lists(st.sampled_from(HOME), max_size=8), st.sets(st.sampled_from(HOME)), st.integers(0, 6), st.randoms())
def test_an_edit_gets_as_many_as_there_are_and_none_that_measures_it(
    templates: list[str], scored: set[str], count: int, random: Any
) -> None:
    measured = tuple(f"The river. {prompt.replace('{}', FACT.subject)}" for prompt in sorted(scored))
    request = EditRequest(FACT.prompt, FACT.subject, FACT.target_new, paraphrase_prompts=measured)
    found = worded(request, templates, count)
    free = set(templates) - scored - {request.prompt}
    assert set(found.wordings) <= free and len(found.wordings) == min(count, len(free))
    random.shuffle(templates)
    assert worded(request, templates, count) == found
    assert {**found.to_dict(), "wordings": ()} == {**request.to_dict(), "wordings": ()}


def test_facts_get_different_wordings() -> None:
    drawn = Counter(worded(EditRequest(HOME[0], f"Ada {n}", "Oran"), HOME, 1).wordings for n in range(40))
    assert len(drawn) == len(HOME) - 1


def test_wordings_of_its_own_come_first() -> None:
    own = EditRequest(HOME[0], "Ada", "Oran", wordings=("The home of {} is",))
    assert worded(own, HOME, 1) == own
    assert worded(own, HOME, 2).wordings[0] == own.wordings[0] and len(worded(own, HOME, 2).wordings) == 2


def test_a_line_does_not_grow_too_long() -> None:
    long = ["{} " + letter * (MAX_PROMPT - 3) for letter in "abcdefgh"]
    full = EditRequest(HOME[0], "Ada", "Oran", paraphrase_prompts=("x" * MAX_PROMPT,) * (MAX_LINE // MAX_PROMPT - 4))
    assert 0 < len(worded(full, long, 8).wordings) < len(worded(FACT, long, 8).wordings) == 8


def test_a_file_gives_the_prompts_of_its_relations(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", ROWS)
    assert templates_in(path) == {"P551": HOME, "P131": TOWNS}
    dataset, found = imported(path, wordings=3)
    assert dataset.worded == {3: 5, 1: 2, 0: 1}
    assert all(set(request.wordings) < set(HOME) for id, request in found.items() if id.startswith("Ada"))
    _, backwards = imported(written(tmp_path / "backwards.json", ROWS[::-1]), wordings=3)
    assert backwards == found
    _, without = imported(path)
    assert {request.wordings for request in without.values()} == {()}


def test_templates_are_taken_instead_of_the_prompts_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", ROWS)
    dataset, found = imported(path, wordings=3, templates={"P131": ["{} belongs to"]})
    assert dataset.worded == {0: 6, 1: 2} and found["Tarsis-0"].wordings == ("{} belongs to",)


def test_without_a_relation_there_are_no_templates(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", [row for row in ROWS if row["relation_id"] is None])
    with pytest.raises(RequestError, match=r"^rows.json: no row names its relation.*--templates"):
        imported(path, wordings=1)
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(RequestError, match=r"^pipe.jsonl: only a file can be read twice.*--templates"):
        imported(pipe, wordings=1)
    with pytest.raises(RequestError, match="cannot be opened"):
        imported(tmp_path / "nothing.jsonl", wordings=1)


def test_a_file_of_templates_is_read(tmp_path: Path) -> None:
    templates = {"P551": HOME, "P131": []}
    path = tmp_path / "templates.json"
    path.write_text(json.dumps(templates), encoding="utf-8")
    assert read_templates(path) == templates


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"P551": ["{} is in"]', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('["{} is in"]', "no object of lists"),
        ('{"P551": "{} is in"}', "no object of lists"),
        ('{"P131": ["{} is in"], "P551": ["Ada is in"]}', r"'P551': the prompt must hold {} exactly once.*'Ada is in'"),
        ('{"P551": [7]}', "'P551': prompt must be a text"),
        ('{"P551": ["{} is\\u0000"]}', "'P551': prompt holds the control character"),
        (json.dumps({"P551": ["{}" + "x" * MAX_PROMPT]}), "'P551': prompt has 2002 characters"),
    ],
)
def test_templates_that_are_no_prompts_are_refused_with_their_relation(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "templates.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=f"^templates.json: .*{told}"):
        read_templates(path)


@NEEDS_REAL_DATA
def test_counterfact_has_wordings_beside_what_measures_an_edit() -> None:
    path = FOLDER / "data" / "counterfact_rome_format.jsonl.gz"
    dataset, found = imported(path, wordings=3)
    assert dataset.worded == {3: 6_330, 2: 2_330, 1: 1_072, 0: 268}
    for request in found.values():
        written = {wording.replace("{}", request.subject) for wording in request.wordings}
        assert not written & {request.question, *request.paraphrase_prompts, *request.generation_prompts}
