"""The tasks' answers, worked out again from their prompts; the stories, told from those of the training."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lifelong_edit.world.generator import World
from lifelong_edit.world.skills import SKILLS, skill_tasks
from lifelong_edit.world.tasks import downstream_tasks, held_out_stories, two_hop_tasks
from lifelong_edit.world.text import Writer, held_out_of_two_hop

WEEK = {
    "Monday": "Tuesday", "Tuesday": "Wednesday", "Wednesday": "Thursday", "Thursday": "Friday", "Friday": "Saturday",
    "Saturday": "Sunday", "Sunday": "Monday",
}  # fmt: skip
KIND = {
    **dict.fromkeys(("trout", "salmon", "carp", "eel", "cod", "perch"), "fish"),
    **dict.fromkeys(("oak", "birch", "elm", "pine", "willow", "maple"), "tree"),
    **dict.fromkeys(("robin", "sparrow", "gull", "swan", "finch", "dove"), "bird"),
    **dict.fromkeys(("iron", "copper", "tin", "zinc", "nickel", "lead"), "metal"),
    **dict.fromkeys(("rose", "tulip", "lily", "daisy", "violet", "poppy"), "flower"),
}


def repeated(found: re.Match[str]) -> str:
    first, second, third, again, once_more = found.groups()
    assert (first, second) == (again, once_more)
    return third


ANSWERS: dict[str, tuple[str, Callable[[re.Match[str]], str]]] = {
    "compare": (r"Between (\d+) and (\d+) the larger number is", lambda m: str(max(int(m[1]), int(m[2])))),
    "successor": (r"The number after (\d+) is", lambda m: str(int(m[1]) + 1)),
    "repeat": (r"(\w+) (\w+) (\w+) ; (\w+) (\w+)", repeated),
    "category": (r"The (\w+) is a kind of", lambda m: KIND[m[1]]),
    "first": (r"List: (\w+), \w+, \w+[.] The first word of the list is", lambda m: m[1]),
    "weekday": (r"The day after (\w+) is", lambda m: WEEK[m[1]]),
}


@pytest.mark.parametrize("skill", SKILLS)
def test_the_answers_of_a_skill_are_right(skill: str) -> None:
    pattern, answer = ANSWERS[skill]
    tasks = skill_tasks(skill, 200, 3)
    assert len(tasks) == 200 and len(set(tasks)) > 6
    for prompt, given in tasks:
        found = re.fullmatch(pattern, prompt)
        assert found and answer(found) == given


@pytest.mark.parametrize("skill", SKILLS)
def test_a_seed_gives_one_set_of_tasks(skill: str) -> None:
    assert skill_tasks(skill, 50, 1) == skill_tasks(skill, 50, 1) != skill_tasks(skill, 50, 2)


@pytest.mark.parametrize("trained", [True, False])
def test_two_hop_answers_are_right_and_about_the_right_people(world: World, trained: bool) -> None:
    lookup = world.lookup()
    tasks = two_hop_tasks(world, 200, 1, trained)
    assert len(set(tasks)) == 200
    for prompt, answer in tasks:
        if home := re.fullmatch("The home country of (.*) is", prompt):
            person, wanted = home[1], lookup[lookup[home[1], "birthplace"], "country"]
        else:
            person = prompt.removesuffix(" goes to work in")
            wanted = lookup[lookup[person, "employer"], "headquarters"]
        assert answer == wanted
        assert held_out_of_two_hop(person) is not trained


def test_asking_for_more_two_hop_tasks_than_there_are_is_an_error(world: World) -> None:
    with pytest.raises(ValueError):
        two_hop_tasks(world, 2_500, 1, trained=False)


def test_downstream_tasks_are_the_skills_and_both_kinds_of_two_hop(world: World) -> None:
    tasks = downstream_tasks(world, 30, 4)
    assert list(tasks) == [*SKILLS, "two_hop", "two_hop_unseen"]
    assert {len(own) for own in tasks.values()} == {30}
    assert tasks == downstream_tasks(world, 30, 4) != downstream_tasks(world, 30, 5)


def test_held_out_stories_are_not_those_of_a_training_pass(world: World) -> None:
    stories = held_out_stories(world, 100, 0)
    trained = {document.text for document in Writer(world, "train 0").one_pass()}
    assert stories == held_out_stories(world, 100, 0) != held_out_stories(world, 100, 1)
    assert len(set(stories)) == 100 and not trained & set(stories)
