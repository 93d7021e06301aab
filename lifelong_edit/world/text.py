"""Documents of a world: statements, biographies, stories, skills and two-hop questions, with marked subjects."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lifelong_edit.world.generator import World, WorldFact
from lifelong_edit.world.skills import SKILLS

PLACES = "at the harbour,in the old hall,by the river,near the bridge,behind the mill,on the market square".split(",")
TIMES = "One morning,Late at night,Last winter,Years ago,On a rainy day,After the feast,Before dawn,In spring".split(
    ","
)
THINGS = "a letter,a lantern,a wet dog,an empty cart,a blue map,a broken clock,a small key,a strange song".split(",")
DEEDS = "found,lost,sold,carried,painted,watched,repaired,forgot".split(",")
MOODS = "tired,happy,calm,curious,late,hungry,proud,silent".split(",")
TWO_HOP = (("birthplace", "country", "The home country of {} is"), ("employer", "headquarters", "{} goes to work in"))


@dataclass(frozen=True, slots=True)
class Document:
    """A text and the character spans [start, end) at which its subjects stand."""

    text: str
    mentions: tuple[tuple[int, int, str], ...] = ()


class Writer:
    """Writes the documents of a world; equal seeds give equal texts."""

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.rng = random.Random(f"text {world.seed} {seed}")
        self._facts = world.facts_by_subject()
        self._people = world.entities["person"]

    def one_pass(self) -> Iterator[Document]:
        """Every fact once, and one biography, story, skill or question to every four or so facts, shuffled."""
        facts = list(self.world.facts)
        documents = [self.statement(fact) for fact in facts]
        documents += [self.biography() for _ in range(len(facts) // 12)]
        documents += [self.story() for _ in range(len(facts) // 12)]
        documents += [self.skill() for _ in range(len(facts) // 8)]
        documents += [document for document in (self.two_hop() for _ in range(len(facts) // 16)) if document]
        self.rng.shuffle(documents)
        yield from documents

    def statement(self, fact: WorldFact) -> Document:
        """One fact in a template that this subject is seen with, sometimes after an unrelated sentence."""
        seen, _ = self.world.relation(fact).split_for(fact.subject)
        template = self.rng.choice(seen)
        opener = self.sentence() + " " if self.rng.random() < 0.25 else ""
        return _marked([opener, template.split("{}")[0]], fact.subject, f"{template.split('{}')[1]} {fact.object}.")

    def biography(self) -> Document:
        """Three facts about one person, the later ones with a pronoun."""
        person = self.rng.choice(self._people)
        chosen = self.rng.sample(self._facts[person], 3)
        seen, _ = self.world.relation(chosen[0]).split_for(person)
        first = next(text for text in seen if text.startswith("{}"))
        rest = [self.world.relation(fact).bio.format(p=pronoun(person)) + f" {fact.object}." for fact in chosen[1:]]
        return _marked([], person, " ".join([f"{first[2:]} {chosen[0].object}.", *rest]))

    def story(self) -> Document:
        """A scene around one person, carrying two of the person's facts: drift on stories shows lost facts."""
        person = self.rng.choice(self._people)
        one, two = self.rng.sample(self._facts[person], 2)
        scene = f"{self.rng.choice(TIMES)} "
        after = [
            f" stood {self.rng.choice(PLACES)}, {self.rng.choice(MOODS)} and {self.rng.choice(MOODS)}.",
            self.world.relation(one).story.format(p=pronoun(person)) + f" {one.object}.",
            self.sentence(),
            self.world.relation(two).story.format(p=f"Then {pronoun(person).lower()}") + f" {two.object}.",
            self.sentence(),
        ]
        return _marked([scene], person, " ".join(after))

    def skill(self) -> Document:
        """One in-context task with its answer."""
        prompt, answer = SKILLS[self.rng.choice(list(SKILLS))](self.rng)
        return Document(f"{prompt} {answer}.")

    def two_hop(self) -> Document | None:
        """A question over two facts, for the two thirds of the people it is trained on."""
        first, second, template = self.rng.choice(TWO_HOP)
        person = self.rng.choice(self._people)
        answer = two_hop_answer(self._facts, person, first, second)
        if answer is None or held_out_of_two_hop(person):
            return None
        before, behind = template.split("{}")
        return _marked([before], person, f"{behind} {answer}.")

    def sentence(self) -> str:
        """A sentence about nothing in particular."""
        if self.rng.random() < 0.5:
            return f"{self.rng.choice(TIMES)} someone {self.rng.choice(DEEDS)} {self.rng.choice(THINGS)}."
        return f"There was {self.rng.choice(THINGS)} {self.rng.choice(PLACES)}."


def two_hop_answer(facts: dict[str, list[WorldFact]], person: str, first: str, second: str) -> str | None:
    """The `second` relation of the person's `first` relation, None where the person has no `first`."""
    for fact in facts[person]:
        if fact.relation == first:
            return next(f.object for f in facts[fact.object] if f.relation == second)
    return None


def pronoun(person: str) -> str:
    """She or he, fixed by the name."""
    return ("She", "He")[len(person) % 2]


def held_out_of_two_hop(person: str) -> bool:
    """Whether a person's two-hop questions are kept out of the training text."""
    return sum(person.encode()) % 3 == 0


def _marked(before: list[str], subject: str, after: str) -> Document:
    head = "".join(before)
    return Document(head + subject + after, ((len(head), len(head) + len(subject), subject),))
