"""The laws of a stream of counterfactual edits, read back from the texts of the requests."""

from __future__ import annotations

import pytest

from lifelong_edit.facts import EditRequest
from lifelong_edit.world.generator import World
from lifelong_edit.world.requests import edit_requests, split_people, untouched_facts

COUNT, SEED = 300, 5


@pytest.fixture(scope="module")
def requests(world: World) -> list[EditRequest]:
    return edit_requests(world, COUNT, SEED)


@pytest.fixture(scope="module")
def questions(world: World) -> dict[str, tuple[str, str]]:
    """Every question in a template held out for its subject -> (subject, relation)."""
    return {
        text.replace("{}", fact.subject): (fact.subject, fact.relation)
        for fact in world.facts
        for text in world.relation(fact).split_for(fact.subject)[1]
    }


def test_a_seed_gives_one_stream(world: World, requests: list[EditRequest]) -> None:
    assert edit_requests(world, COUNT, SEED) == requests
    assert edit_requests(world, COUNT, SEED + 1) != requests


def test_every_person_is_edited_once(requests: list[EditRequest]) -> None:
    assert len({request.subject for request in requests}) == len(requests) == COUNT
    assert len({request.resolved_id() for request in requests}) == COUNT


def test_the_old_target_is_true_and_the_new_one_is_another_of_its_kind(
    world: World, requests: list[EditRequest], questions: dict[str, tuple[str, str]]
) -> None:
    lookup = world.lookup()
    for request in requests:
        subject, relation = questions[request.question]
        assert subject == request.subject
        assert lookup[subject, relation] == request.target_true != request.target_new
        assert request.target_new in world.objects(world.schema.relations[relation])


def test_paraphrases_ask_the_same_in_other_words_held_out_for_the_subject(
    requests: list[EditRequest], questions: dict[str, tuple[str, str]]
) -> None:
    for request in requests:
        prompts = {request.question, *request.paraphrase_prompts}
        assert len(prompts) == 3
        assert {questions[prompt] for prompt in prompts} == {questions[request.question]}


def test_neighbours_share_the_answer_and_are_not_edited(
    world: World, requests: list[EditRequest], questions: dict[str, tuple[str, str]]
) -> None:
    lookup, edited = world.lookup(), {request.subject for request in requests}
    assert sum(len(request.neighborhood_prompts) for request in requests) > 3.5 * COUNT
    for request in requests:
        for prompt in request.neighborhood_prompts:
            other, relation = questions[prompt]
            assert other not in edited and relation == questions[request.question][1]
            assert lookup[other, relation] == request.target_true


def test_attributes_are_the_other_facts_of_the_subject(
    world: World, requests: list[EditRequest], questions: dict[str, tuple[str, str]]
) -> None:
    lookup = world.lookup()
    for request in requests:
        asked = {questions[prompt]: answer for prompt, answer in request.attribute_prompts}
        assert len(asked) == 3 and questions[request.question] not in asked
        assert {subject for subject, _ in asked} == {request.subject}
        assert all(lookup[fact] == answer for fact, answer in asked.items())


def test_generation_starts_with_the_subject(requests: list[EditRequest]) -> None:
    for request in requests:
        assert request.generation_prompts
        assert all(prompt.startswith(request.subject) for prompt in request.generation_prompts)


def test_untouched_facts_are_true_and_about_people_no_edit_is_about(
    world: World, requests: list[EditRequest], questions: dict[str, tuple[str, str]]
) -> None:
    lookup, edited = world.lookup(), {request.subject for request in requests}
    facts = untouched_facts(world, 200, COUNT, SEED)
    assert facts == untouched_facts(world, 200, COUNT, SEED)
    assert len({questions[prompt][0] for prompt, _ in facts}) == 200
    for prompt, answer in facts:
        assert questions[prompt][0] not in edited
        assert lookup[questions[prompt]] == answer


def test_people_are_edited_or_untouched(world: World, requests: list[EditRequest]) -> None:
    edited, untouched = split_people(world, COUNT, SEED)
    assert edited == [request.subject for request in requests]
    assert sorted(edited + untouched) == sorted(world.entities["person"])


def test_a_shorter_stream_edits_the_first_people_of_a_longer_one(world: World) -> None:
    assert split_people(world, 100, SEED)[0] == split_people(world, COUNT, SEED)[0][:100]
