"""What an invented world is made of: kinds of entities, relations with their templates, closed word lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

from lifelong_edit.facts import canonical_digest

KINDS = ("person", "company", "city", "country")
COUNTS = {"person": 2_500, "company": 160, "city": 90, "country": 20}
RELATIONS_PER_PERSON = 4
STYLES = ("first", "middle", "question")


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation: four templates for each position of the subject; every template ends where the object begins."""

    name: str
    subject: str
    object: str
    phrase: str
    templates: tuple[tuple[str, str], ...]
    bio: str
    story: str

    def split_for(self, subject: str) -> tuple[list[str], list[str]]:
        """(seen, held out) templates for one subject: half of each style, chosen by a digest of the name."""
        parts: tuple[list[str], list[str]] = ([], [])
        for style in STYLES:
            texts = [text for kind, text in self.templates if kind == style]
            ranked = sorted(texts, key=lambda text: canonical_digest([subject, self.name, text]))
            half = len(ranked) // 2
            parts[0].extend(ranked[:half])
            parts[1].extend(ranked[half:])
        return parts


@dataclass(frozen=True, slots=True)
class Schema:
    """The relations and word lists that every world shares."""

    relations: dict[str, Relation]
    words: dict[str, tuple[str, ...]]

    def about(self, kind: str) -> list[Relation]:
        """The relations whose subject is of `kind`."""
        return [relation for relation in self.relations.values() if relation.subject == kind]


def load_schema() -> Schema:
    """The schema from the package's own `relations.json`."""
    raw = json.loads(resources.files(__package__).joinpath("relations.json").read_text(encoding="utf-8"))
    relations = {
        name: Relation(
            name=name,
            subject=row["subject"],
            object=row["object"],
            phrase=row["phrase"],
            templates=tuple((style, text) for style in STYLES for text in row[style]),
            bio=row["bio"],
            story=row["story"],
        )
        for name, row in raw["relations"].items()
    }
    return Schema(relations, {kind: tuple(words) for kind, words in raw["words"].items()})
