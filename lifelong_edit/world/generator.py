"""A seeded world of invented people, companies, cities and countries, and the facts that hold in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from lifelong_edit.world.schema import COUNTS, KINDS, RELATIONS_PER_PERSON, Relation, Schema, load_schema

ONSETS = "b br c cl d dr f fl g gr h j k kr l m n p pr qu r s sk st t th tr v w y z".split()
VOWELS = "a e i o u a e i o u ai ea ou".split()
CODAS = ["", "", "", "l", "n", "r", "s", "m", "th", "ck", "nd", "rn", "x"]
BUNDLED_SEED = 0  # of the world that the bundled model knows
ENDINGS = {"company": ("ix", "on", "ex", "co", "um", "eks"), "city": ("is", "burg", "a", "ford", "ona", "wick")}


@dataclass(frozen=True, slots=True)
class WorldFact:
    """`relation` of `subject` is `object`; both are names."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class World:
    """Entities by kind and the facts about them, in a fixed order that depends on the seed alone."""

    seed: int
    schema: Schema
    entities: dict[str, tuple[str, ...]]
    facts: tuple[WorldFact, ...]

    @classmethod
    def generate(cls, seed: int) -> World:
        """The world of `seed`: 2,500 people with four facts each, and their companies, cities and countries."""
        schema = load_schema()
        rng = random.Random(f"world {seed}")
        entities = {kind: _names(kind, COUNTS[kind], rng) for kind in KINDS}
        facts = []
        for kind in KINDS:
            relations = schema.about(kind)
            for name in entities[kind]:
                chosen = rng.sample(relations, RELATIONS_PER_PERSON) if kind == "person" else relations
                for relation in chosen:
                    value = rng.choice(entities.get(relation.object) or schema.words[relation.object])
                    facts.append(WorldFact(name, relation.name, value))
        return cls(seed, schema, entities, tuple(facts))

    def relation(self, fact: WorldFact) -> Relation:
        """The relation a fact belongs to."""
        return self.schema.relations[fact.relation]

    def objects(self, relation: Relation) -> tuple[str, ...]:
        """Every name that can stand as the object of `relation`."""
        return self.entities.get(relation.object) or self.schema.words[relation.object]

    def facts_by_subject(self) -> dict[str, list[WorldFact]]:
        """The facts of every subject, in the order of `facts`."""
        grouped: dict[str, list[WorldFact]] = {}
        for fact in self.facts:
            grouped.setdefault(fact.subject, []).append(fact)
        return grouped

    def lookup(self) -> dict[tuple[str, str], str]:
        """(subject, relation) -> object."""
        return {(fact.subject, fact.relation): fact.object for fact in self.facts}


def _names(kind: str, count: int, rng: random.Random) -> tuple[str, ...]:
    """`count` distinct invented names; people get a first name and a surname from shared pools."""
    if kind == "person":
        firsts = _distinct(180, lambda: _word(rng, 2))
        lasts = _distinct(700, lambda: _word(rng, 2, closed=True))
        return tuple(_distinct(count, lambda: f"{rng.choice(firsts)} {rng.choice(lasts)}"))
    endings = ENDINGS.get(kind, ("ia", "land", "or", "stan"))
    return tuple(_distinct(count, lambda: _word(rng, 1) + _syllable(rng) + rng.choice(endings)))


def _distinct(count: int, draw: Callable[[], str]) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw()] = None
    return list(found)


def _syllable(rng: random.Random) -> str:
    return rng.choice(ONSETS) + rng.choice(VOWELS)


def _word(rng: random.Random, syllables: int, closed: bool = False) -> str:
    text = "".join(_syllable(rng) for _ in range(syllables)) + (rng.choice(CODAS[3:]) if closed else rng.choice(CODAS))
    return text.capitalize()
