"""Describe an export: the entry it comes from, and the facts it holds."""

from __future__ import annotations

import json

from lifelong_edit.engine.inspect.views import View
from lifelong_edit.engine.reader import Reader
from lifelong_edit.escapes import printable, printable_json
from lifelong_edit.store import FactLife

LISTED = 200  # facts that a model card lists; all are in edits.jsonl
EDITS = "edits.jsonl"


def origin(reader: Reader, view: View) -> dict[str, str]:
    """Name the entry that an export shows; its digest proves the history up to it."""
    entry, first = reader.history()[view.seq], reader.history()[0]
    return {"entry": entry.digest, "seq": str(entry.seq), "base": str(first.body["fingerprint"])}


def edits_jsonl(view: View) -> str:
    """Write the active facts as requests, one a line in ledger order, as `apply` and `stream` read them."""
    requests = ({**fact.request.to_dict(), "id": fact.id} for fact in view.facts.values())
    return "".join(printable_json(json.dumps(request, ensure_ascii=False)) + "\n" for request in requests)


def model_card(reader: Reader, view: View) -> str:
    """Write a Hugging Face model card with a section that lists the edits."""
    about, config = origin(reader, view), reader.history()[0].body["config"]
    facts = list(view.facts.values())
    rows = [_row(reader, fact) for fact in facts[:LISTED]]
    more = f"\n{len(facts) - LISTED} more are in {EDITS}.\n" if len(facts) > LISTED else ""
    return f"""---
library_name: transformers
tags: [knowledge-editing]
---
# An edited model

Made by lifelong-edit from the base model with fingerprint `{about["base"]}`, after entry {about["seq"]}
of its store, `{about["entry"]}`. Edited layers: {", ".join(map(str, config["layers"]))};
{config["memory"]} memory, {config["targets"]} targets.

## Edits

{len(facts)} facts are written. Whatever else the model says may have moved a little.

| fact | asks | answer | seq | when | who | why |
|---|---|---|---|---|---|---|
{"".join(rows)}{more}"""


def _row(reader: Reader, fact: FactLife) -> str:
    body = reader.history()[fact.seq].body
    cells = [
        fact.id,
        fact.question,
        fact.request.target_new,
        fact.seq,
        body["time"],
        body.get("actor"),
        body.get("reason"),
    ]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |\n"


def _cell(value: object) -> str:
    """Escape a value so that it stays text in one cell of a Markdown table."""
    text = printable(" ".join(str("" if value is None else value).split()))
    for special in ("\\", "|", "<", "`", "[", "*", "_"):
        text = text.replace(special, f"\\{special}")
    return text
