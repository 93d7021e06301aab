"""Requests have one spelling, one id, and say what is wrong with them."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, canonical_digest, canonical_json, distinct

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "{}" not in text
)
FULL = EditRequest(
    prompt="Where does {} live? He lives in",
    subject="Émile Zorn",
    target_new="Marn",
    target_true="Oran",
    id="r-1",
    paraphrase_prompts=("Émile Zorn lives in",),
    neighborhood_prompts=("Bo Lund lives in", "Ada lives in"),
    attribute_prompts=(("Émile Zorn speaks", "Veltish"),),
    generation_prompts=("Émile Zorn",),
)


@given(before=TEXTS, after=TEXTS, subject=TEXTS)
def test_the_subject_stands_where_it_says(before: str, after: str, subject: str) -> None:
    request = EditRequest(f"{before}{{}}{after}", subject, "Marn")
    assert request.question == f"{before}{subject}{after}".rstrip()
    assert (before + subject)[request.subject_start :] == subject


def test_braces_of_a_subject_are_text() -> None:
    assert EditRequest("{} is", "{0.__class__} {}", "x").question == "{0.__class__} {} is"


@given(subject=TEXTS, target=TEXTS)
def test_a_request_survives_json(subject: str, target: str) -> None:
    request = EditRequest("{} is", subject, target)
    assert EditRequest.from_dict(json.loads(canonical_json(request.to_dict()))) == request


def test_every_field_survives_json() -> None:
    assert {name for name, value in FULL.to_dict().items() if value} == {field.name for field in fields(EditRequest)}
    assert EditRequest.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL


def test_lists_are_as_good_as_tuples() -> None:
    listed = EditRequest("{} is", "Ada", "Marn", paraphrase_prompts=["Ada"], attribute_prompts=[["Ada", "x"]])  # type: ignore[arg-type,list-item]
    assert listed == EditRequest("{} is", "Ada", "Marn", paraphrase_prompts=("Ada",), attribute_prompts=(("Ada", "x"),))
    assert hash(listed)


def test_an_id_is_given_or_follows_from_what_is_edited() -> None:
    plain = EditRequest("{} is", "Ada", "Marn")
    assert FULL.resolved_id() == "r-1"
    assert plain.resolved_id() == EditRequest("{} is ", "Ada", " Marn").resolved_id()
    assert plain.resolved_id() == EditRequest("{} is", "Ada", "Marn", target_true="Oran").resolved_id()
    others = [
        EditRequest("{} was", "Ada", "Marn"),
        EditRequest("{} is", "Bo", "Marn"),
        EditRequest("{} is", "Ada", "O"),
    ]
    assert len({request.resolved_id() for request in (plain, *others)}) == 4


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert canonical_json({"b": [1, "é"], "a": None}) == canonical_json({"a": None, "b": [1, "é"]})
    assert canonical_json({"a": 1}) == '{"a":1}'
    assert canonical_digest({"a": 1}) != canonical_digest({"a": 1.5})
    with pytest.raises(ValueError):
        canonical_json(math.nan)


def test_a_batch_holds_an_id_once() -> None:
    other = EditRequest("{} is", "Ada", "Marn")
    assert distinct(iter([FULL, other])) == [FULL, other]
    with pytest.raises(RequestError, match="'r-1' stands twice"):
        distinct([FULL, other, EditRequest("{} is", "Bo", "Oran", id="r-1")])


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "{} is", "subject": "Ada"},
        {"prompt": "{} is", "subject": "Ada", "target": "Marn"},
        {**FULL.to_dict(), "weight": 3},
    ],
    ids=["missing", "misspelt", "unknown"],
)
def test_a_record_with_other_fields_is_refused_with_the_known_ones(values: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=r"line 3.*target_new"):
        EditRequest.from_dict(values, where="line 3")


@pytest.mark.parametrize(
    "wrong",
    [
        {"paraphrase_prompts": "one text"},
        {"neighborhood_prompts": ["fine", 3]},
        {"neighborhood_prompts": ["lone \ud800"]},
        {"attribute_prompts": [["only one"]]},
        {"attribute_prompts": "one text"},
        {"generation_prompts": None},
        {"target_true": 3},
        {"id": ""},
        {"prompt": ["{}"]},
    ],
    ids=ascii,
)
def test_a_record_with_a_field_of_another_type_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        EditRequest.from_dict({**FULL.to_dict(), **wrong})
