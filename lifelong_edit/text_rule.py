"""How a prompt and its answer become one text."""

from __future__ import annotations

import re
import unicodedata
from enum import Enum

STOPS = ".,;:!?%\u2026\u061f\u060c\u061b\u0964\u0965\u0589"  # marks after a sentence or a part of one
QUOTES = "\"'"
# Scripts of narrow characters that part no words by blanks, by how the names of their characters begin.
UNPARTED = ("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "TAI ", "NEW TAI ")


class TextRule(str, Enum):
    """A choice of how a prompt and its answer become one text; a store keeps the one that it was made with.

    `kept`: the prompt is the user's to the last character, and a blank goes before the answer where a word needs one.
    `stripped`, of stores made before there was a choice: blanks that end a prompt are dropped, and one blank goes
    before every answer.
    """

    kept = "kept"
    stripped = "stripped"

    def asked(self, prompt: str) -> str:
        """The prompt as the model is asked it."""
        return prompt.rstrip() if self is TextRule.stripped else prompt

    def answered(self, prompt: str, target: str) -> str:
        """The target as it follows the prompt: with a blank before it, or without.

        Kept, a blank goes before it where the prompt ends in a letter, a digit or a mark that closes something, of a
        script that parts words by blanks; never where the target begins with white space itself.
        """
        if self is TextRule.stripped:
            return " " + target.strip()
        target = target.rstrip()
        return target if target[:1].isspace() or not _ends_a_word(prompt) else " " + target


def _ends_a_word(prompt: str) -> bool:
    last = prompt[-1:]
    if not last or _is_unparted(last):
        return False
    if last in QUOTES:  # the same mark opens and closes; inside a word it is an apostrophe
        return len(re.findall(rf"\B{last}|{last}\B", prompt)) % 2 == 0
    category = unicodedata.category(last)
    return category[0] in "LMN" or category in ("Pe", "Pf") or last in STOPS


def _is_unparted(character: str) -> bool:
    """Whether it belongs to a script without blanks: a wide one, Hangul aside, or one of `UNPARTED`."""
    name = unicodedata.name(character, "")
    wide = unicodedata.east_asian_width(character) in ("W", "F", "H") and "HANGUL" not in name
    return wide or name.startswith(UNPARTED)
