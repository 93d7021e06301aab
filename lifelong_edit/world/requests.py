"""Edit requests about the invented world, with everything needed to measure them, in CounterFact's fields."""

from __future__ import annotations

import random

from lifelong_edit.facts import EditRequest
from lifelong_edit.world.generator import World, WorldFact

PARAPHRASES, NEIGHBOURS, ATTRIBUTES = 2, 4, 3


def edit_requests(world: World, count: int, seed: int) -> list[EditRequest]:
    """`count` counterfactual edits of distinct people, one relation each; equal seeds give equal streams.

    The prompt and the paraphrases are templates that this subject was never trained with. Neighbourhood prompts ask
    the same relation of people with the same true answer who are not edited; attribute prompts ask the subject's
    other relations.
    """
    rng = random.Random(f"requests {world.seed} {seed}")
    facts = world.facts_by_subject()
    edited, untouched = split_people(world, count, seed)
    by_answer: dict[tuple[str, str], list[WorldFact]] = {}
    for fact in (fact for person in untouched for fact in facts[person]):
        by_answer.setdefault((fact.relation, fact.object), []).append(fact)
    return [_request(world, person, facts[person], by_answer, rng) for person in edited]


def untouched_facts(world: World, count: int, edits: int, seed: int) -> list[tuple[str, str]]:
    """(prompt, answer) of `count` facts about people whom the stream of `edits` edits with this seed leaves alone."""
    rng = random.Random(f"untouched {world.seed} {seed}")
    facts = world.facts_by_subject()
    people = rng.sample(split_people(world, edits, seed)[1], count)
    return [question(world, rng.choice(facts[person]), rng) for person in people]


def split_people(world: World, edits: int, seed: int) -> tuple[list[str], list[str]]:
    """The people a stream edits, in its order, and all others."""
    people = list(world.entities["person"])
    random.Random(f"people {world.seed} {seed}").shuffle(people)
    return people[:edits], people[edits:]


def question(world: World, fact: WorldFact, rng: random.Random) -> tuple[str, str]:
    """A fact as (prompt, answer), in a template its subject was never trained with."""
    _, held_out = world.relation(fact).split_for(fact.subject)
    return rng.choice(held_out).replace("{}", fact.subject), fact.object


def _request(
    world: World,
    person: str,
    facts: list[WorldFact],
    by_answer: dict[tuple[str, str], list[WorldFact]],
    rng: random.Random,
) -> EditRequest:
    fact = rng.choice(facts)
    relation = world.relation(fact)
    _, held_out = relation.split_for(person)
    prompt, *paraphrases = rng.sample(held_out, 1 + PARAPHRASES)
    neighbours = by_answer.get((fact.relation, fact.object), [])
    others = [other for other in facts if other is not fact]
    return EditRequest(
        prompt=prompt,
        subject=person,
        target_new=rng.choice([value for value in world.objects(relation) if value != fact.object]),
        target_true=fact.object,
        paraphrase_prompts=tuple(text.replace("{}", person) for text in paraphrases),
        neighborhood_prompts=tuple(
            question(world, other, rng)[0] for other in rng.sample(neighbours, min(NEIGHBOURS, len(neighbours)))
        ),
        attribute_prompts=tuple(question(world, other, rng) for other in others[:ATTRIBUTES]),
        generation_prompts=tuple(text.replace("{}", person) for text in held_out if text.startswith("{}")),
    )
