"""What the documents say is true in the world, and their marks stand where the subjects are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lifelong_edit.world.generator import World, WorldFact
from lifelong_edit.world.text import Document, Writer, held_out_of_two_hop


@pytest.fixture(scope="module")
def kinds(world: World) -> dict[str, str]:
    return {name: kind for kind, names in world.entities.items() for name in names}


def claims(world: World, text: str, subject: str, kind: str) -> Iterator[WorldFact]:
    """Every (subject, relation, object) that a sentence of `text` states in any form of its relation."""
    for relation in world.schema.about(kind):
        told = [
            form.replace("{p}", p)
            for form in (relation.bio, relation.story)
            for p in ("She", "He", "Then she", "Then he")
        ]
        starts = [*(text.replace("{}", subject) for _, text in relation.templates), *told]
        for start in filter(text.__contains__, starts):  # a pattern takes longer to compile than to look for
            for found in re.findall(rf"(?:^|(?<=[.] )){re.escape(start)} ([\w-]+)[.]", text):
                if found in world.objects(relation):
                    yield WorldFact(subject, relation.name, found)


def check_marks(document: Document) -> None:
    for start, end, name in document.mentions:
        assert document.text[start:end] == name


def test_equal_seeds_give_equal_texts(world: World) -> None:
    def texts(seed: str) -> list[str]:
        writer = Writer(world, seed)
        return [writer.story().text for _ in range(20)] + [writer.biography().text for _ in range(20)]

    assert texts("a") == texts("a") != texts("b")


def test_statements_are_true_and_in_a_template_seen_with_the_subject(world: World, kinds: dict[str, str]) -> None:
    writer = Writer(world, "test")
    for fact in world.facts[::23]:
        document = writer.statement(fact)
        check_marks(document)
        assert [name for *_, name in document.mentions] == [fact.subject]
        assert set(claims(world, document.text, fact.subject, kinds[fact.subject])) == {fact}
        seen, _ = world.relation(fact).split_for(fact.subject)
        assert any(document.text.endswith(f"{text.replace('{}', fact.subject)} {fact.object}.") for text in seen)


def test_biographies_and_stories_are_true(world: World) -> None:
    writer, true = Writer(world, "test"), set(world.facts)
    for _ in range(60):
        for document, count in ((writer.biography(), 3), (writer.story(), 2)):
            check_marks(document)
            ((_, _, person),) = document.mentions
            said = set(claims(world, document.text, person, "person"))
            assert len({fact.relation for fact in said}) == count
            assert said <= true


@pytest.fixture(scope="module")
def one_pass(world: World) -> str:
    return " ".join(document.text for document in Writer(world, "test").one_pass())


def test_one_pass_states_every_fact(world: World, one_pass: str) -> None:
    for fact in world.facts[::41]:
        seen, _ = world.relation(fact).split_for(fact.subject)
        assert any(f"{text.replace('{}', fact.subject)} {fact.object}." in one_pass for text in seen)


def test_training_text_holds_no_template_that_is_held_out_for_its_subject(world: World, one_pass: str) -> None:
    for fact in world.facts[::41]:
        seen, held_out = world.relation(fact).split_for(fact.subject)
        shown = [text.replace("{}", fact.subject) for text in seen]
        for text in (text.replace("{}", fact.subject) for text in held_out):
            inside = any(text in other for other in shown)  # "{} was born in" also ends a longer template
            assert inside or f"{text} {fact.object}." not in one_pass


def test_two_hop_questions_are_true_and_leave_a_third_of_the_people_out(world: World) -> None:
    writer, lookup = Writer(world, "test"), world.lookup()
    found = [document for document in (writer.two_hop() for _ in range(400)) if document]
    assert len(found) > 50
    for document in found:
        check_marks(document)
        ((_, _, person),) = document.mentions
        assert not held_out_of_two_hop(person)
        if document.text.startswith("The home country of"):
            country = lookup[lookup[person, "birthplace"], "country"]
            assert document.text == f"The home country of {person} is {country}."
        else:
            city = lookup[lookup[person, "employer"], "headquarters"]
            assert document.text == f"{person} goes to work in {city}."
    share = sum(map(held_out_of_two_hop, world.entities["person"])) / len(world.entities["person"])
    assert 0.28 < share < 0.39
