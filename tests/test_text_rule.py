"""A prompt is kept to the last character, and a blank goes before its answer where a word needs one."""

from __future__ import annotations

import pytest

from lifelong_edit.facts import TextRule

KEPT, STRIPPED = TextRule.kept, TextRule.stripped
PROMPTS = {  # a prompt and whether a blank follows
    "Ada was born in": True,
    "She moved in 1912": True,
    "Она родилась в": True,
    "वह रहती है।": True,
    "그녀가 태어난 곳은": True,
    "Ada (born Quill)": True,
    "«Ada»": True,
    "“Ada”": True,
    'The word "Ada"': True,
    "She says it's 'Ada'": True,
    "Answer:": True,
    "Where does Ada live?": True,
    "أين تعيش آدا؟": True,
    "Answer:\n": False,
    "Ada lives in ": False,
    "Ada lives in\u3000": False,
    'x = "': False,
    '{"name": "Ada", "town":"': False,
    "Ada's town is '": False,
    "Ada (": False,
    "«": False,
    "“": False,
    "https://": False,
    "def __": False,
    "阿达出生于": False,
    "答案：": False,
    "「阿达」": False,
    "アダの出身地は": False,
    "出身は１": False,
    "เธอเกิดที่": False,
    "ນາງເກີດຢູ່": False,
    "": False,
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_blank_follows_what_ends_a_word(prompt: str) -> None:
    assert KEPT.answered(prompt, "Oran") == (" Oran" if PROMPTS[prompt] else "Oran")


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("target", [" Oran", "\nOran", "  Oran", "\u3000Oran"])
def test_a_target_that_begins_with_white_space_is_taken_as_it_is(prompt: str, target: str) -> None:
    assert KEPT.answered(prompt, target) == KEPT.answered(prompt, target + " \n") == target


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_kept_and_was_stripped(prompt: str) -> None:
    assert KEPT.asked(prompt) == prompt
    assert STRIPPED.asked(prompt + " \n") == prompt.rstrip()
    assert STRIPPED.answered(prompt, "Oran") == STRIPPED.answered(prompt, "\n Oran ") == " Oran"
