"""Requests have one spelling, one id, and say what is wrong with them."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import (
    MAX_END,
    MAX_MESSAGES,
    MAX_NAME,
    MAX_PROMPT,
    MAX_TARGET,
    MAX_TEXTS,
    MAX_WORDINGS,
    EditRequest,
    Message,
    TextRule,
    canonical_digest,
    canonical_json,
    distinct,
)

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
    neighborhood_prompts=("Bo Lund lives in", ("Ada lives in", "Tarsis")),
    attribute_prompts=(("Émile Zorn speaks", "Veltish"),),
    generation_prompts=("Émile Zorn",),
    wordings=("The home of {} is in", "{} dwells in"),
)
TOLD = EditRequest(subject="Bo", target_new="Marn", messages=(Message("system", ""), Message("user", "Where is {}?")))


@given(before=TEXTS, after=TEXTS, subject=TEXTS)
def test_the_subject_stands_where_it_says(before: str, after: str, subject: str) -> None:
    request = EditRequest(f"{before}{{}}{after}", subject, "Marn")
    assert request.question == f"{before}{subject}{after}"
    assert (before + subject)[request.subject_start :] == subject


def test_braces_of_a_subject_are_text() -> None:
    assert EditRequest("{} is", "{0.__class__} {}", "x").question == "{0.__class__} {} is"


def test_other_braces_of_a_prompt_are_text() -> None:
    prompt = "{0} {x.__class__} {!r} %s {{}} {"
    assert EditRequest(prompt, "Ada", "x").question == "{0} {x.__class__} {!r} %s {Ada} {"


@given(subject=TEXTS, target=TEXTS)
def test_a_request_survives_json(subject: str, target: str) -> None:
    request = EditRequest("{} is", subject, target)
    assert EditRequest.from_dict(json.loads(canonical_json(request.to_dict()))) == request


def test_every_field_survives_json() -> None:
    every = replace(FULL, messages=TOLD.messages, end=True)
    assert {name for name, value in every.to_dict().items() if value} == {field.name for field in fields(EditRequest)}
    for request in (every, TOLD, replace(FULL, end="</s>")):
        assert EditRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_lists_are_as_good_as_tuples() -> None:
    listed = EditRequest("{} is", "Ada", "Marn", paraphrase_prompts=["Ada"], attribute_prompts=[["Ada", "x"]])  # type: ignore[arg-type,list-item]
    assert listed == EditRequest("{} is", "Ada", "Marn", paraphrase_prompts=("Ada",), attribute_prompts=(("Ada", "x"),))
    assert hash(listed)


def test_a_neighbour_has_its_own_answer_or_the_true_target() -> None:
    assert FULL.neighbours == (("Bo Lund lives in", "Oran"), ("Ada lives in", "Tarsis"))
    assert replace(FULL, target_true=None).neighbours[0] == ("Bo Lund lives in", None)


def test_an_id_is_given_or_follows_from_what_is_edited() -> None:
    plain = EditRequest("{} is", "Ada", "Marn")
    assert FULL.resolved_id() == "r-1"
    assert plain.resolved_id() == EditRequest("{} is", "Ada", " Marn ").resolved_id()
    assert plain.resolved_id() == EditRequest("{} is", "Ada", "Marn", target_true="Oran").resolved_id()
    others = [
        EditRequest("{} was", "Ada", "Marn"),
        EditRequest("{} is", "Bo", "Marn"),
        EditRequest("{} is", "Ada", "O"),
    ]
    assert len({request.resolved_id() for request in (plain, *others)}) == 4


@given(subject=TEXTS, blanks=st.text(" \t\n\u3000", max_size=3))
def test_blanks_that_no_question_shows_make_no_other_request(subject: str, blanks: str) -> None:
    for prompt, name in (("{} is" + blanks, subject), ("It is {}" + blanks, subject), ("It is {}", subject + blanks)):
        request, plain = EditRequest(prompt, name, "Marn" + blanks), EditRequest(prompt.rstrip(), subject, "Marn")
        same = request.question.rstrip() == plain.question.rstrip()
        assert (request.statement == plain.statement) == same
        assert (request.resolved_id() == plain.resolved_id()) == (request.question == plain.question)
        # In a store of the rule before, they are one request.
        old = TextRule.stripped
        assert (request.resolved_id(old) == plain.resolved_id(old)) == same


def test_a_target_has_one_id_for_one_text() -> None:
    for prompt, targets in {"{} is": ("Marn", " Marn", "  Marn", "\nMarn"), "{} is\n": ("Marn", " Marn")}.items():
        requests = [EditRequest(prompt, "Ada", target) for target in targets]
        texts = {TextRule.kept.answered(request.question, request.target_new) for request in requests}
        assert len({request.resolved_id() for request in requests}) == len(texts) > 1


def test_ids_are_those_of_all_versions() -> None:
    for target in ("Marn", " Marn", "Marn\n"):
        assert EditRequest("{} is", "Ada", target).resolved_id() == "a83a6ac0c4d8c071"


def test_blanks_that_a_question_shows_make_another_request() -> None:
    plain = EditRequest("{} is", "Ada", "Marn")
    for other in (EditRequest(" {} is", "Ada", "Marn"), EditRequest("{} is", "Ada ", "Marn")):
        assert other.statement != plain.statement and other.resolved_id() != plain.resolved_id()


def test_what_is_asked_is_prompt_and_subject_whatever_the_target() -> None:
    assert EditRequest("{} is", "Ada", "Marn").statement == EditRequest("{} is ", "Ada", "Oran", id="r").statement
    assert EditRequest("{} is", "Ada", "Marn").statement != EditRequest("{} was", "Ada", "Marn").statement


def test_wordings_say_how_a_fact_is_written_and_not_which() -> None:
    plain, worded = replace(FULL, id=None, wordings=()), replace(FULL, id=None)
    assert worded != plain and worded.statement == plain.statement
    for rule in TextRule:
        assert worded.canonical(rule) == plain.canonical(rule)
        assert worded.resolved_id(rule) == plain.resolved_id(rule)


SCORED = {
    "paraphrase_prompts": ["Émile Zorn dwells in"],
    "neighborhood_prompts": ["Bo Lund dwells in", [" Émile  Zorn\ndwells in ", "Oran"]],
    "attribute_prompts": [["Émile Zorn Dwells in", "Oran"]],
    "generation_prompts": ["The river rose.\n\nÉmile Zorn dwells in"],
}


@pytest.mark.parametrize("name", SCORED)
def test_what_measures_an_edit_is_never_written(name: str) -> None:
    sound = {**FULL.to_dict(), "wordings": ["{} dwells in"]}
    assert EditRequest.from_dict(sound).wordings == ("{} dwells in",)
    with pytest.raises(RequestError, match=r"'r-1'.*wordings, '{} dwells in',.*measures the edit. Leave one"):
        EditRequest.from_dict({**sound, name: SCORED[name]})


def test_what_measures_an_edit_may_hold_a_wording_elsewhere() -> None:
    for scored in ("Émile Zorn dwells in a house in", "Neither Pémile Zorn dwells in", "dwells in"):
        request = replace(FULL, paraphrase_prompts=(scored,), wordings=("{} dwells in",))
        assert request.wordings == ("{} dwells in",)


@pytest.mark.parametrize(
    ("wordings", "told"),
    [
        ([FULL.prompt], "is the prompt itself. Leave it out"),
        ([f" {FULL.prompt}\n"], "is the prompt itself. Leave it out"),
        (["{} dwells in", "The home of {} is in", "{}  dwells in"], "is there twice. Leave it out"),
    ],
    ids=["the prompt", "the prompt with other blanks", "twice"],
)
def test_a_wording_that_adds_nothing_is_refused(wordings: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        EditRequest.from_dict({**FULL.to_dict(), "wordings": wordings})


def test_messages_say_what_is_edited_whatever_was_made_of_them() -> None:
    made = [replace(TOLD, prompt=prompt) for prompt in ("[Monday] {}? ", "[Tuesday] {}? ")]
    assert {(r.resolved_id(), r.statement) for r in made} == {(TOLD.resolved_id(), TOLD.statement)}
    others = [
        replace(TOLD, target_new="Oran"), replace(TOLD, subject="Ada"), replace(TOLD, messages=TOLD.messages[1:])
    ]  # fmt: skip
    assert len({request.resolved_id() for request in (TOLD, *others)}) == 4
    assert [other.statement == TOLD.statement for other in others] == [True, False, False]
    with pytest.raises(RequestError, match="its messages are no text yet"):
        TOLD.question  # noqa: B018


@pytest.mark.parametrize("messages", [(), None])
def test_a_request_without_messages_needs_a_prompt(messages: object) -> None:
    with pytest.raises(RequestError, match=r"prompt|messages"):
        EditRequest(subject="Bo", target_new="Marn", messages=messages)  # type: ignore[arg-type]


def test_an_answer_is_the_target_with_its_end_which_says_how_a_fact_is_written_and_not_which() -> None:
    plain, ended = EditRequest("{} is", "Ada", "Marn "), EditRequest("{} is", "Ada", "Marn ", end=".")
    assert (plain.answer, ended.answer, ended.ended("Oran")) == ("Marn ", "Marn.", "Oran.")
    assert ended.resolved_id() == plain.resolved_id() and ended != plain
    assert EditRequest("{} is", "Ada", "Marn ", end=False) == plain
    with pytest.raises(RequestError, match="its end is the model's own"):
        EditRequest("{} is", "Ada", "Marn", end=True).answer  # noqa: B018


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
        {"neighborhood_prompts": ["fine", ["only one"]]},
        {"neighborhood_prompts": ["fine", ["Bo lives in", "Oran", "Marn"]]},
        {"neighborhood_prompts": [["Bo lives in", ["Oran"]]]},
        {"neighborhood_prompts": ["lone \ud800"]},
        {"attribute_prompts": [["only one"]]},
        {"attribute_prompts": "one text"},
        {"generation_prompts": None},
        {"target_true": 3},
        {"id": ""},
        {"id": "r\n1"},
        {"id": " r-1"},
        {"id": "r  1"},
        {"id": ["r"] * 5_000},
        {"id": "r" * 5_000},
        {"prompt": ["{}"]},
        {"prompt": "{}" + "x" * MAX_PROMPT},
        {"subject": "x" * (MAX_NAME + 1)},
        {"subject": {"name": "Ada"}},
        {"subject": None},
        {"target_new": "x" * (MAX_TARGET + 1)},
        {"target_new": 1.5},
        {"target_new": True},
        {"target_new": "\x9b2J"},
        {"paraphrase_prompts": ["Ada"] * (MAX_TEXTS + 1)},
        {"paraphrase_prompts": ["x" * (MAX_PROMPT + 1)]},
        {"paraphrase_prompts": [["Ada"]]},
        {"attribute_prompts": [["Ada", "x"]] * (MAX_TEXTS + 1)},
        {"generation_prompts": {"Ada": 1}},
        {"generation_prompts": b"Ada"},
        {"wordings": "{} dwells in"},
        {"wordings": [3]},
        {"wordings": [""]},
        {"wordings": ["{} \x9b2J"]},
        {"wordings": ["{}" + "x" * MAX_PROMPT]},
        {"wordings": ["Émile Zorn dwells in"]},
        {"wordings": ["{} and {} dwell in"]},
        {"wordings": [f"{{}} dwells in {number}" for number in range(MAX_WORDINGS + 1)]},
        {"end": ""},
        {"end": ".\n"},
        {"end": 1.0},
        {"end": ["."]},
        {"end": "." * (MAX_END + 1)},
        {"messages": "Where is {}?"},
        {"messages": ["Where is {}?"]},
        {"messages": [["user", "Where is {}?", "now"]]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "{}?", "name": "Bo"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "{}?"}]}]},
        {"messages": [{"role": "", "content": "{}?"}]},
        {"messages": [{"role": "user", "content": "Where is Bo?"}]},
        {"messages": [{"role": "user", "content": "{}?"}] * 2},
        {"messages": [{"role": "user", "content": "{} \x9b2J"}]},
        {"messages": [{"role": "user", "content": "{}" + "x" * MAX_PROMPT}]},
        {"messages": [{"role": "user", "content": ""}] * MAX_MESSAGES + [{"role": "user", "content": "{}?"}]},
    ],
    ids=lambda wrong: ascii(wrong)[:50],
)
def test_a_record_with_a_field_of_another_type_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))) as caught:
        EditRequest.from_dict({**FULL.to_dict(), **wrong})
    assert len(str(caught.value)) < 500


def test_lists_at_their_limit_are_accepted() -> None:
    listed = {**FULL.to_dict(), "paraphrase_prompts": ["x" * MAX_PROMPT] * MAX_TEXTS}
    assert len(EditRequest.from_dict(listed).paraphrase_prompts) == MAX_TEXTS
    worded = {**FULL.to_dict(), "wordings": [f"{{}} dwells in {number}" for number in range(MAX_WORDINGS)]}
    assert len(EditRequest.from_dict(worded).wordings) == MAX_WORDINGS


def test_nested_lists_are_refused_whatever_the_depth() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    for name in ("paraphrase_prompts", "attribute_prompts", "prompt", "id", "messages"):
        with pytest.raises(RequestError, match=name):
            EditRequest.from_dict({**FULL.to_dict(), name: nested})


@pytest.mark.parametrize("values", [[], "text", None, 3, [["prompt", "{} is"]]], ids=repr)
def test_what_is_no_object_is_no_request(values: object) -> None:
    with pytest.raises(RequestError, match=r"^line 3: it is a"):
        EditRequest.from_dict(values, where="line 3")  # type: ignore[arg-type]
