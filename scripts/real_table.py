"""The table of `real_quality.py`: shares pooled over seeds, each with its 95 % interval, from the records alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean as mean
from statistics import median, stdev
from typing import Any

from tabulate import tabulate

Record = dict[str, Any]
Pair = tuple[Record, Record]  # a record, and that of the base with the same seed

STORED = {"base": "no edits", "bfloat16": "stored as bfloat16", "Q8_0": "stored as Q8_0", "Q4_0": "stored as Q4_0"}
EDITED = {
    "wordings": "three wordings a fact",
    "bare": "no wordings",
    "many": "three wordings a fact",
    "single": "alone",
}
OTHERS, KNOWN, COHORT = 250, 0.2, 50  # prompts for first choices; base p of a known fact; facts of a cohort
Z = 1.96
HEADS = [
    "", "seeds", "efficacy", "paraphrases", "behind a strange sentence", "greedy text begins so", "untouched",
    "p of untouched, after / before", "first choice of others", "relations given", "relations not given",
    "first choice in text", "written, not said",
]  # fmt: skip
SINGLE_HEADS = ["", "edits", "efficacy", "changed first choices of others, median", "most"]


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` (Wilson)."""
    z2 = Z**2 / n
    middle, half = (share + z2 / 2) / (1 + z2), Z * math.sqrt(share * (1 - share) / n + z2 / n / 4) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(flags: Sequence[bool]) -> str:
    """A share and its interval; "-" of nothing."""
    if not flags:
        return "-"
    low, high = wilson(mean(flags), len(flags))
    return f"{mean(flags):.3f} [{low:.2f}, {high:.2f}]"


def ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """The mean of the second by that of the first, and the 95 % interval of a ratio of means; "-" of less than two."""
    if len(pairs) < 2:
        return "-"
    before = mean(b for b, _ in pairs)
    found = mean(a for _, a in pairs) / before
    half = Z * stdev(a - found * b for b, a in pairs) / before / math.sqrt(len(pairs))
    return f"{found:.3f} [{found - half:.2f}, {found + half:.2f}]"


def known(pair: Pair) -> list[tuple[Record, Record]]:
    """Answers after and before, of those that the base knows."""
    record, base = pair
    answers = zip(record["others"], base["others"], strict=True)
    return [(after, before) for after, before in answers if before["right"] and before["p"] >= KNOWN]


def kept(pair: Pair) -> list[tuple[bool, bool]]:
    """For the prompts whose first choices count: is the relation among those given, is the first choice the base's."""
    record, base = pair
    rows = zip(base["kept"], base["given"], record["others"], base["others"], strict=True)
    return [(given, after["first"] == before["first"]) for i, given, after, before in rows if i < OTHERS]


def facts_cells(records: Sequence[Record], part: slice = slice(None)) -> list[str]:
    """What is said of the facts; of some of them with `part`."""
    cells = []
    for name in ("efficacy", "paraphrases", "strange"):
        facts = [fact for record in records for fact in record.get(name, [])[part]]  # each a list of answers
        cells.append(share([answer["right"] for fact in facts for answer in fact]))
    return [*cells, share([begins for record in records for begins in record.get("begins", [])[part]])]


def line(label: str, pairs: Sequence[Pair]) -> list[str]:
    """A line of the table."""
    records, same = [record for record, _ in pairs], [flags for pair in pairs for flags in kept(pair)]
    untouched = [answers for pair in pairs for answers in known(pair)]
    text = [a == b for record, base in pairs for a, b in zip(record["text"], base["text"], strict=True)]
    missing = [case for record in records for case in unsaid(record)] if "failed" in records[0] else ["-"]
    return [
        label, str(len(pairs)), *facts_cells(records), share([after["right"] for after, _ in untouched]),
        ratio([(before["p"], after["p"]) for after, before in untouched]), share([flag for _, flag in same]),
        share([flag for given, flag in same if given]), share([flag for given, flag in same if not given]),
        share(text), "-" if missing == ["-"] else str(len(missing)),
    ]  # fmt: skip


def unsaid(record: Record) -> list[str]:
    """The cases that their commits did not call failed, and that the model does not say in the end."""
    said = [fact[0]["right"] for fact in record["efficacy"]]
    return [
        case for case, right in zip(record["cases"], said, strict=True) if not right and case not in record["failed"]
    ]


def label_of(record: Record) -> str:
    """What a line is about: the row, and the options that are not the default."""
    job = record["job"]
    what = f"{job['count']}, {EDITED[job['row']]}" if job["row"] in EDITED else STORED[job["row"]]
    return ", ".join([what, *(f"{name} {value}" for name, value in job.get("options", {}).items())])


def table(records: Sequence[Record]) -> str:
    """Markdown: for every model and pool a line a row, the oldest and newest of many, and single edits below."""
    parts: dict[str, dict[str, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    bases = {(r["job"]["model"], r["job"]["pool"], r["job"]["seed"]): r for r in records if r["job"]["row"] == "base"}
    for record in records:
        model, pool, seed = (record["job"][name] for name in ("model", "pool", "seed"))
        parts[f"{model}, {pool} facts"][label_of(record)].append((record, bases[model, pool, seed]))
    return "\n\n".join(f"{name}\n\n{_part(groups)}" for name, groups in parts.items())


def _part(groups: dict[str, list[Pair]]) -> str:
    lines, singles = list[list[str]](), list[list[Any]]()
    for label, pairs in groups.items():
        records = [record for record, _ in pairs]
        row = records[0]["job"]["row"]
        if row == "single":
            changed = [1 - mean(flag for _, flag in kept(pair)) for pair in pairs]
            singles.append([label, len(pairs), facts_cells(records)[0], median(changed), max(changed)])
            continue
        lines.append(line(label, pairs))
        if row == "many":
            lines.append([f"the oldest {COHORT} of them", "", *facts_cells(records, slice(COHORT))])
            lines.append([f"the newest {COHORT} of them", "", *facts_cells(records, slice(-COHORT, None))])
    text = tabulate(lines, HEADS, "github", disable_numparse=True) if lines else ""
    below = tabulate(singles, SINGLE_HEADS, "github", floatfmt=".3f") if singles else ""
    return "\n\n".join(part for part in (text, below) if part)
