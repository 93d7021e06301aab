"""One seed, one world, of the promised size; templates that leave no doubt where the object begins."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple

import pytest

from lifelong_edit.facts import canonical_digest
from lifelong_edit.world.generator import World
from lifelong_edit.world.schema import COUNTS, KINDS, STYLES, Relation, load_schema

SCHEMA = load_schema()
RELATIONS = list(SCHEMA.relations.values())


def digest(world: World) -> str:
    return canonical_digest([world.entities, [astuple(fact) for fact in world.facts]])


def test_a_seed_gives_one_world(world: World) -> None:
    assert digest(World.generate(0)) == digest(world)
    assert digest(World.generate(1)) != digest(world) != digest(World.generate(2))


def test_the_bundled_model_still_knows_this_world(world: World) -> None:
    """The checkpoint in checkpoints/tiny-world was trained on exactly these facts, splits and templates."""
    splits = [world.relation(fact).split_for(fact.subject) for fact in world.facts[::97]]
    assert canonical_digest([digest(world), splits])[:16] == "eac31038de7c3231"


def test_the_world_has_the_promised_size(world: World) -> None:
    assert {kind: len(names) for kind, names in world.entities.items()} == COUNTS
    assert len(world.entities["person"]) >= 2_500
    assert len(world.schema.relations) >= 15
    assert 10_000 <= len(world.facts) <= 14_000


def test_all_names_are_different(world: World) -> None:
    for names in world.entities.values():
        assert len(set(names)) == len(names)
    names = [name for kind in world.entities.values() for name in kind]
    assert len(set(names)) == len(names)


def test_no_name_of_an_entity_is_a_word_of_the_closed_lists(world: World) -> None:
    words = {word for words in world.schema.words.values() for word in words}
    assert not words & {name for names in world.entities.values() for name in names}


def test_a_subject_has_one_object_to_a_relation(world: World) -> None:
    assert len(world.lookup()) == len(world.facts)
    for fact in world.facts:
        relation = world.relation(fact)
        assert fact.subject in world.entities[relation.subject]
        assert fact.object in world.objects(relation)


def test_people_have_four_facts_and_the_others_all_their_relations(world: World) -> None:
    counts = {name: len(facts) for name, facts in world.facts_by_subject().items()}
    for kind in KINDS:
        wanted = 4 if kind == "person" else len(world.schema.about(kind))
        assert {counts[name] for name in world.entities[kind]} == {wanted}


def test_objects_are_shared_by_many_subjects(world: World) -> None:
    people = [fact for fact in world.facts if world.relation(fact).subject == "person"]
    shared = Counter((fact.relation, fact.object) for fact in people)
    assert sum(shared.values()) / len(shared) > 10
    assert min(shared.values()) >= 2


def test_relations_have_twelve_templates_in_three_styles() -> None:
    for relation in RELATIONS:
        assert Counter(style for style, _ in relation.templates) == dict.fromkeys(STYLES, 4)


def test_a_template_belongs_to_one_relation() -> None:
    texts = [text for relation in RELATIONS for _, text in relation.templates]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_a_template_ends_where_the_object_begins(relation: Relation) -> None:
    for style, text in relation.templates:
        assert text.count("{}") == 1 and "{" not in text.replace("{}", "")
        assert text == text.strip() and "  " not in text
        assert text.startswith("{}") == (style == "first")
        assert text.endswith("Answer:") == (style == "question")
        assert style == "question" or text.endswith("{}") or text[-1].isalpha()
    for text in (relation.bio, relation.story):
        assert text == text.strip() and text[-1].isalpha()


def test_seen_and_held_out_templates_part_the_twelve(world: World) -> None:
    for fact in world.facts[::11]:
        relation = world.relation(fact)
        seen, held_out = relation.split_for(fact.subject)
        assert sorted(seen + held_out) == sorted(text for _, text in relation.templates)
        style = {text: style for style, text in relation.templates}
        assert Counter(style[text] for text in seen) == Counter(style[text] for text in held_out)


def test_every_template_is_seen_with_some_subjects_and_held_out_for_others(world: World) -> None:
    for relation in world.schema.relations.values():
        splits = [relation.split_for(name) for name in world.entities[relation.subject]]
        for _, text in relation.templates:
            assert 0 < sum(text in seen for seen, _ in splits) < len(splits)
