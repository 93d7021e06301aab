"""In-context skills: small tasks whose answer follows from the prompt alone. They serve as downstream tasks."""

from __future__ import annotations

import random
from collections.abc import Callable

WORDS = (
    "apple bell boat book box bread brush cup desk door drum fork gate glass hat jar key lamp leaf nail pen plate rope "
    "salt shoe spoon stone table wheel window"
).split()
CATEGORIES = {
    "fish": "trout salmon carp eel cod perch".split(),
    "tree": "oak birch elm pine willow maple".split(),
    "bird": "robin sparrow gull swan finch dove".split(),
    "metal": "iron copper tin zinc nickel lead".split(),
    "flower": "rose tulip lily daisy violet poppy".split(),
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

Task = tuple[str, str]  # prompt, answer


def _compare(rng: random.Random) -> Task:
    low, high = sorted(rng.sample(range(1, 60), 2))
    pair = rng.sample((low, high), 2)
    return f"Between {pair[0]} and {pair[1]} the larger number is", str(high)


def _successor(rng: random.Random) -> Task:
    number = rng.randrange(1, 59)
    return f"The number after {number} is", str(number + 1)


def _repeat(rng: random.Random) -> Task:
    words = rng.sample(WORDS, 3)
    return f"{words[0]} {words[1]} {words[2]} ; {words[0]} {words[1]}", words[2]


def _category(rng: random.Random) -> Task:
    kind = rng.choice(list(CATEGORIES))
    return f"The {rng.choice(CATEGORIES[kind])} is a kind of", kind


def _first(rng: random.Random) -> Task:
    words = rng.sample(WORDS, 3)
    return f"List: {', '.join(words)}. The first word of the list is", words[0]


def _weekday(rng: random.Random) -> Task:
    day = rng.randrange(7)
    return f"The day after {DAYS[day]} is", DAYS[(day + 1) % 7]


SKILLS: dict[str, Callable[[random.Random], Task]] = {
    "compare": _compare,
    "successor": _successor,
    "repeat": _repeat,
    "category": _category,
    "first": _first,
    "weekday": _weekday,
}


def skill_tasks(skill: str, count: int, seed: int) -> list[Task]:
    """`count` (prompt, answer) pairs of one skill; the answer follows the prompt after one blank."""
    rng = random.Random(f"skill {skill} {seed}")
    return [SKILLS[skill](rng) for _ in range(count)]
