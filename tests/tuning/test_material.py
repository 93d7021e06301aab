"""What chooses, what is reported and what the editor is given have nothing in common."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.tuning.exam import Exam
from lifelong_edit.tuning.material import material

REQUESTS = [
    EditRequest("{} was born in", f"Ada {n}x", "Marn", wordings=("The home of {} is", "{} comes from"))
    for n in range(30)
]
STATEMENTS = [f"The capital of Land{n} is Town{n}." for n in range(300)]
SENTENCE = "The keeper of house {} looks over a quiet field of barley and counts the boats on the river."
TEXT = [" ".join(SENTENCE.format(f"{n}x{i}") for i in range(4)) for n in range(60)]


def asked(exam: Exam) -> set[str]:
    return {*(fact.subject for fact in exam.facts), *exam.prompts, *exam.passages, *exam.sentences}


def parts(**choices: Any) -> Any:
    return material(**{"requests": REQUESTS, "text": TEXT, "statements": STATEMENTS, "seed": 0, **choices})


def test_nothing_has_two_uses() -> None:
    found = parts(facts=6)
    assert not asked(found.chosen) & asked(found.reported)
    for exam in (found.chosen, found.reported):
        assert (len(exam.facts), len(exam.sentences), len(exam.passages)) == (6, 6, 7) and len(exam.prompts) == 75
        given = "\n".join([*found.text, *found.prompts])
        assert not any(text.strip() in given for text in (*exam.prompts, *exam.passages, *exam.sentences))
    assert len(found.prompts) == 150 and len(found.text) == 60 - 28


def test_a_seed_parts_alike_in_any_order_and_another_otherwise() -> None:
    mixed = {
        name: random.Random(1).sample(texts, len(texts))
        for name, texts in (("requests", REQUESTS), ("statements", STATEMENTS), ("text", TEXT))
    }
    one, other = parts(), parts(**mixed)
    assert (one.chosen, one.reported, set(one.text), one.prompts) == (
        other.chosen, other.reported, set(other.text), other.prompts
    )  # fmt: skip
    assert parts(seed=1).chosen != one.chosen


def test_a_request_without_paraphrases_is_asked_by_its_last_wording() -> None:
    fact = parts().chosen.facts[0]
    assert fact.paraphrase_prompts == (f"{fact.subject} comes from",) and fact.wordings == ("The home of {} is",)


def test_prompts_about_an_edited_subject_are_left_out() -> None:
    named = [f"The friend of {request.subject} is Bo{n}." for n, request in enumerate(REQUESTS)]
    found = parts(statements=STATEMENTS + named, facts=10)
    subjects = [fact.subject for exam in (found.chosen, found.reported) for fact in exam.facts]
    asked_or_given = (*found.chosen.prompts, *found.reported.prompts, *found.prompts)
    assert len(subjects) == 20 and not any(s in prompt for s in subjects for prompt in asked_or_given)


def test_without_statements_neighbours_are_asked() -> None:
    near = [
        replace(r, neighborhood_prompts=tuple((f"Land{r.subject[4:]}{n} is", "far") for n in range(8)))
        for r in REQUESTS
    ]
    found = parts(requests=near, statements=[])
    assert found.prompts == () and {prompt[:4] for prompt in found.chosen.prompts} == {"Land"}


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"requests": REQUESTS[:7]}, "7 subjects, 8 are needed"),
        ({"requests": [REQUESTS[0]] * 20}, "1 subjects"),
        ({"statements": STATEMENTS[:60]}, "30 prompts"),
        ({"statements": ["oneword"] * 99}, "0 prompts"),
        ({"text": TEXT[:15]}, "15 paragraphs"),
        ({"text": ["short"] * 99}, "0 paragraphs"),
    ],
)
def test_too_little_of_anything_is_refused_by_number(choices: dict[str, Sequence[Any]], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        parts(**choices)
