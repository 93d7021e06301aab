"""Data sets are read by their fields, their format is found or refused, and every row is a request or a reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong_edit.datasets.dataset import FORMATS, Dataset, Imported, Rejected, detect, format_named, open_dataset
from lifelong_edit.datasets.drafts import Draft, line_of, request_of
from lifelong_edit.datasets.jsonl import read_requests
from lifelong_edit.datasets.rows import Row
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import REQUIRED, EditRequest
from tests.datasets.specimens import COUNTERFACT, SPECIMENS, ZSRE, Specimen
from tests.real_data import FOLDER, NEEDS_REAL_DATA

PLAIN = {"prompt": "{} lives in", "subject": "Ada", "target_new": "Oran"}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["Ada lives in", "{} is", "Ada"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["str", "prompt", "ada"]), inner),
    max_leaves=6,
)


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def outcomes(path: Path, **choices: Any) -> tuple[Dataset, list[Imported | Rejected]]:
    with open_dataset(path, **choices) as dataset:
        return dataset, list(dataset)


def only(row: Any, tmp_path: Path, **choices: Any) -> Imported | Rejected:
    _, found = outcomes(written(tmp_path / "rows.jsonl", [row]), **choices)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_row_is_read_as_its_format_says(name: str, tmp_path: Path) -> None:
    specimen, format = SPECIMENS[name], name.split()[0]
    path = written(tmp_path / "rows.jsonl", [specimen.row])
    dataset, found = outcomes(path, targets=specimen.targets, format="mcf" if name == "mcf" else None)
    assert dataset.format is FORMATS[format] and (dataset.rows, dataset.accepted) == (1, len(specimen.requests))
    assert found == [Imported(request, 1, specimen.row, specimen.relation) for request in specimen.requests]


def test_every_format_has_a_specimen_and_a_line_in_the_documents() -> None:
    assert {name.split()[0] for name in SPECIMENS} == set(FORMATS)
    table = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    assert [name for name in FORMATS if f"| `{name}` |" not in table] == []


@pytest.mark.parametrize("name", SPECIMENS)
def test_fields_that_are_left_out_change_nothing_else_or_are_a_reason(name: str, tmp_path: Path) -> None:
    specimen, format = SPECIMENS[name], name.split()[0]
    for left_out in specimen.row:
        row = {field: value for field, value in specimen.row.items() if field != left_out}
        path = written(tmp_path / "rows.jsonl", [row])
        _, found = outcomes(path, format=format, targets=specimen.targets)
        kept = [each.request.target_new for each in found if isinstance(each, Imported)]
        assert kept == [request.target_new for request in specimen.requests] or all(
            isinstance(each, Rejected) and each.reason.startswith("no ") for each in found
        )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"subject": "Bo"}, "the subject is not in the prompt"),
        ({"subject": "ADA"}, "the subject has other capitals in the prompt"),
        ({"prompt": "Ada knows Ada, who lives in"}, "the subject stands in the prompt twice"),
        ({"prompt": "Adalbert lives in"}, "the subject is part of a longer word"),
        ({"prompt": "{} or {} lives in"}, "not a sound request"),
        ({"subject": "{}"}, "the subject holds {}"),
        ({"subject": " "}, "no subject"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": None, "messages": [{"role": "user", "content": "Where is Ada?"}]}, "not a sound request"),
        ({"target_new": ""}, "no target_new"),
        ({"target_new": {"id": "Q1"}}, "no target_new"),
        ({"target_new": 7}, "target_new is a number"),
        ({"target_new": "x" * 201}, "target_new is too long"),
        ({"target_new": "a\x07b"}, "not a sound request"),
        ({"target_new": "\udc80"}, "not a sound request"),
        ({"paraphrase_prompts": 3}, "not a sound request"),
        ({"attribute_prompts": ["Ada", "x"]}, "not a sound request"),
        ({"paraphrase_prompts": ["x" * 1900] * 60}, "too long for a line"),
    ],
    ids=str,
)
def test_a_row_that_is_no_edit_is_rejected_with_its_reason(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    row = {**PLAIN, "prompt": "Ada lives in", **change}
    found = only(row, tmp_path, format="plain")
    assert isinstance(found, Rejected) and (found.row, found.reason) == (1, reason) and found.raw == row
    assert found.problem.startswith(f"{reason}: ") and found.problem.endswith((".", "...]."))


def test_a_neighbour_comes_with_its_own_answer(tmp_path: Path) -> None:
    neighbours = ["Bo lives in", ["Ana lives in", "Kessel"]]
    found = only({**PLAIN, "prompt": "Ada lives in", "neighborhood_prompts": neighbours}, tmp_path)
    assert isinstance(found, Imported)
    assert found.request.neighborhood_prompts == ("Bo lives in", ("Ana lives in", "Kessel"))


def test_a_subject_is_found_as_a_word(tmp_path: Path) -> None:
    for prompt, expected in {
        "Adalbert met Ada in": "Adalbert met {} in",
        "Is Ada's home in": "Is {}'s home in",
        "Ada": "{}",
        "Ada1 or Ada": "Ada1 or {}",
        "東京AdaはどこAdab": "東京{}はどこAdab",
        "{} is not Ada but": "{} is not Ada but",
    }.items():
        found = only({**PLAIN, "prompt": prompt}, tmp_path)
        assert isinstance(found, Imported) and found.request.prompt == expected


def test_blanks_around_subject_and_targets_are_taken_off(tmp_path: Path) -> None:
    found = only({**PLAIN, "prompt": "Ada lives in", "subject": "Ada ", "target_new": " Oran\n"}, tmp_path)
    assert isinstance(found, Imported) and found.request == EditRequest("{} lives in", "Ada", "Oran")


def test_zsre_has_no_usual_target(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", [ZSRE])
    for targets, message in {None: "Choose with --targets", "pred": "Choose alt or answers"}.items():
        with pytest.raises(RequestError, match=message):
            outcomes(path, targets=targets)
    with pytest.raises(RequestError, match="Leave --targets out"):
        outcomes(written(path, [PLAIN]), targets="alt")
    empty = only({**ZSRE, "alt": ""}, tmp_path, targets="alt")
    assert isinstance(empty, Rejected) and empty.reason == "no target_new"


def test_an_edit_of_a_case_is_rejected_alone(tmp_path: Path) -> None:
    row = json.loads(json.dumps(SPECIMENS["mquake"].row))
    row["requested_rewrite"][0]["target_new"] = None
    _, found = outcomes(written(tmp_path / "rows.jsonl", [row]))
    assert isinstance(found[0], Rejected)
    assert isinstance(found[1], Imported) and found[1].request.id == "mquake-3-2"


def test_ripple_edits_without_texts_are_rejected(tmp_path: Path) -> None:
    row = json.loads(json.dumps(SPECIMENS["rippleedits"].row))
    for missing, place in (("target text", row["Subject_Aliasing"]), ("subject text", row["edit"])):
        place.clear() if isinstance(place, list) else place.pop("subject")
        found = only(row, tmp_path)
        assert isinstance(found, Rejected) and found.reason == f"no {missing}"


def test_a_format_is_unknown_or_ambiguous_with_what_was_seen() -> None:
    with pytest.raises(RequestError, match=r"f: the rows look like no format.*Seen in the first rows: a, b\. .*zsre"):
        detect([Row(1, {"a": 1, "b": {"c": 2}})], "f")
    with pytest.raises(RequestError, match=r"look like counterfact, zsre at once.*alt, answers"):
        detect([Row(1, COUNTERFACT), Row(2, ZSRE)], "f")
    with pytest.raises(RequestError, match="no objects"):
        detect([Row(1, "x", "not a JSON object: x")], "f")
    with pytest.raises(RequestError, match="no format 'csv'"):
        format_named("csv")


def test_every_row_is_counted_and_every_field_that_is_not_used_is_told(tmp_path: Path) -> None:
    rows = [{**PLAIN, "id": "a", "note": 1}, {**PLAIN, "id": "a"}, {**PLAIN, "subject": ""}, [3], {**PLAIN, "id": 5}]
    dataset, found = outcomes(written(tmp_path / "rows.jsonl", rows))
    assert (dataset.rows, dataset.accepted, dataset.unused) == (5, 2, Counter(note=1))
    assert dataset.reasons == Counter({"the id stands twice": 1, "no subject": 1, "not a JSON object": 1})
    assert [each.row for each in found] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".json.gz", ".jsonl.gz", ".csv.gz"])
def test_files_of_every_kind_say_the_same(ending: str, tmp_path: Path) -> None:
    rows = [{**PLAIN, "subject": f"Ada {n}", "paraphrase_prompts": ["a, b", 'c "d"\n']} for n in range(3)]
    if ".jsonl" in ending:
        text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    elif ".json" in ending:
        text = json.dumps(rows, indent=1)
    else:
        made = io.StringIO()
        writer = csv.DictWriter(made, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "paraphrase_prompts": json.dumps(row["paraphrase_prompts"])} for row in rows)
        text = made.getvalue()
    path = tmp_path / f"rows{ending}"
    data = b"\xef\xbb\xbf" + text.encode()
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    dataset, found = outcomes(path)
    assert dataset.format.name == "plain"
    assert [each.request for each in found if isinstance(each, Imported)] == [
        EditRequest(**{**row, "paraphrase_prompts": tuple(row["paraphrase_prompts"])}) for row in rows
    ]


@given(st.lists(st.dictionaries(st.sampled_from([*REQUIRED, "id", "paraphrase_prompts", "attribute_prompts"]), ANY)))
def test_whatever_is_accepted_comes_back_from_the_strict_lines(rows: list[dict[str, Any]]) -> None:
    dataset = Dataset("f", FORMATS["plain"], None, (Row(number, row) for number, row in enumerate(rows, 1)))
    _comes_back([each.request for each in dataset if isinstance(each, Imported)])


@given(st.sampled_from(sorted(SPECIMENS)), st.data())
def test_rows_with_anything_in_a_field_are_accepted_soundly_or_rejected(name: str, data: st.DataObject) -> None:
    specimen: Specimen = SPECIMENS[name]
    row = json.loads(json.dumps(specimen.row))
    place = row
    while True:
        field = data.draw(
            st.sampled_from(sorted(place)) if isinstance(place, dict) else st.sampled_from(range(len(place)))
        )
        if not (isinstance(place[field], dict | list) and place[field] and data.draw(st.booleans())):
            break
        place = place[field]
    place[field] = data.draw(ANY)
    dataset = Dataset("f", FORMATS[name.split()[0]], specimen.targets, iter([Row(1, row)]))
    found = list(dataset)
    assert found and all(each.problem for each in found if isinstance(each, Rejected))
    _comes_back([each.request for each in found if isinstance(each, Imported)])


def _comes_back(requests: list[EditRequest]) -> None:
    lines = [line_of(request) for request in requests]
    read = [sourced.request for sourced in read_requests(lines, "edits.jsonl")]
    assert [replace(b, id=a.id) for a, b in zip(requests, read, strict=True)] == requests


def test_a_draft_needs_a_place_for_its_subject() -> None:
    assert request_of(Draft("Ada is", "Ada", "Oran")).prompt == "{} is"


@NEEDS_REAL_DATA
@pytest.mark.parametrize(
    ("file", "targets", "format", "counts"),
    [
        ("counterfact_rome_format.jsonl.gz", None, "counterfact", (10_000, 10_000, 0)),
        ("counterfact_easyedit.jsonl.gz", None, "counterfact-easyedit", (10_000, 10_000, 0)),
        ("known_cases.jsonl.gz", None, "counterfact", (2_816, 2_816, 0)),
        ("zsre_train_1k.jsonl.gz", "alt", "zsre", (1_000, 998, 2)),
        ("zsre_train_1k.jsonl.gz", "answers", "zsre", (1_000, 1_000, 0)),
        ("mquake_hard.jsonl.gz", None, "mquake", (429, 1_716, 0)),
    ],
)
def test_real_files_import(file: str, targets: str | None, format: str, counts: tuple[int, ...]) -> None:
    path = next(each for each in (FOLDER / file, FOLDER / "data" / file) if each.exists())
    dataset, found = outcomes(path, targets=targets)
    assert dataset.format.name == format
    assert (dataset.rows, dataset.accepted, dataset.reasons.total()) == counts
    _comes_back([each.request for each in found[:300] if isinstance(each, Imported)])
