"""Wordings from templates: prompts of one relation, with ``{}`` for the subject, that say each of its facts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifelong_edit.datasets.drafts import check_line
from lifelong_edit.datasets.jsonl import read_text, source_name
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, canonical_digest

Templates = Mapping[str, Sequence[str]]  # relation -> prompts
FORM = '{"P103": ["The native language of {} is", "{} speaks"], ...}'


def read_templates(path: Path) -> Templates:
    """Read a JSON file of relations and their templates; `RequestError` names the relation of one that is no prompt."""
    name = source_name(path)
    try:
        found: Any = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{name}: it is not JSON: {error}. Write {FORM}") from None
    if not isinstance(found, dict) or not all(isinstance(prompts, list) for prompts in found.values()):
        raise RequestError(f"{name}: it is no object of lists. Write {FORM}")
    for relation, prompts in found.items():
        for prompt in prompts:
            try:
                EditRequest(prompt, "subject", "target")  # a template is what a prompt can be
            except RequestError as error:
                raise RequestError(f"{name}: relation {relation[:80]!r}: {str(error).partition(': ')[2]}") from None
    return found


def worded(request: EditRequest, templates: Iterable[str], count: int) -> EditRequest:
    """The request with up to `count` wordings, taken from its relation's templates.

    Those that a request refuses are passed over: its own prompt, and what measures the edit. Which of the others a fact
    gets is drawn by a digest of fact and template, so it depends neither on their order nor on other facts.
    """
    drawn = sorted(templates, key=lambda template: canonical_digest([request.prompt, request.subject, template]))
    for template in drawn:
        if len(request.wordings) >= count:
            break
        with suppress(RequestError):
            longer = replace(request, wordings=(*request.wordings, template))
            check_line(longer)
            request = longer
    return request
