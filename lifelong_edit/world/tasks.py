"""Texts and tasks of a world that drift and downstream ability are measured with."""

from __future__ import annotations

import random

from lifelong_edit.world.generator import World
from lifelong_edit.world.skills import SKILLS, Task, skill_tasks
from lifelong_edit.world.text import TWO_HOP, Writer, held_out_of_two_hop, two_hop_answer


def held_out_stories(world: World, count: int, seed: int) -> list[str]:
    """`count` stories drawn apart from the training text; they carry facts, so lost facts show in their perplexity."""
    writer = Writer(world, f"held out {seed}")
    return [writer.story().text for _ in range(count)]


def two_hop_tasks(world: World, count: int, seed: int, trained: bool) -> list[Task]:
    """(prompt, answer) of `count` distinct two-hop questions.

    They are about people whose two-hop questions belong to the training text, or without `trained` about those whose
    questions are kept out of it. Raises ValueError when the world has fewer.
    """
    facts = world.facts_by_subject()
    tasks = [
        (template.replace("{}", person), answer)
        for person in world.entities["person"]
        if held_out_of_two_hop(person) != trained
        for first, second, template in TWO_HOP
        if (answer := two_hop_answer(facts, person, first, second)) is not None
    ]
    return random.Random(f"two hops {world.seed} {seed} {trained}").sample(tasks, count)


def downstream_tasks(world: World, count: int, seed: int) -> dict[str, list[Task]]:
    """`count` tasks of every skill, of the two-hop questions, and of those about people held out of them."""
    return {
        **{skill: skill_tasks(skill, count, seed) for skill in SKILLS},
        "two_hop": two_hop_tasks(world, count, seed, trained=True),
        "two_hop_unseen": two_hop_tasks(world, count, seed, trained=False),
    }
