"""Escapes for control and bidirectional characters, with which a user's text could steer whatever shows it."""

from __future__ import annotations

import json


def printable(value: object) -> str:
    """The value's text on one line, every character that would not be seen as itself escaped; nothing for None."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay apart."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """JSON that says the same, with an escape for every such character."""
    lines = (
        line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
        for line in text.split("\n")
    )
    return "\n".join(lines)
