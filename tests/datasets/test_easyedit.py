"""EasyEdit's parallel lists become the requests they mean, or an error that names the list and the position."""

from __future__ import annotations

from typing import Any

import pytest

from lifelong_edit.datasets.easyedit import from_easyedit
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest

GIVEN: dict[str, Any] = {
    "prompts": ["Ada Quill lives in", "The river of {} is"],
    "target_new": [" Marn", "Ösel"],
    "subject": ["Ada Quill", "Oran"],
    "ground_truth": ["Oran", "<|endoftext|>"],
    "rephrase_prompts": ["The home of Ada Quill is", ["Oran's river is", "In Oran flows"]],
    "locality_inputs": {
        "neighborhood": {"prompt": ["Bo Lund lives in", None], "ground_truth": ["Oran", None]},
        "distracting": {"prompt": [["Bo Lund speaks"], ["1 + 1 ="]], "ground_truth": [["Veltish"], ["2"]]},
    },
}


def test_parallel_lists_become_requests() -> None:
    assert from_easyedit(**GIVEN) == [
        EditRequest(
            "{} lives in",
            "Ada Quill",
            "Marn",
            "Oran",
            paraphrase_prompts=("The home of Ada Quill is",),
            neighborhood_prompts=("Bo Lund lives in",),
            attribute_prompts=(("Bo Lund speaks", "Veltish"),),
        ),
        EditRequest(
            "The river of {} is",
            "Oran",
            "Ösel",
            paraphrase_prompts=("Oran's river is", "In Oran flows"),
            attribute_prompts=(("1 + 1 =", "2"),),
        ),
    ]


def test_one_edit_is_given_as_texts() -> None:
    assert from_easyedit("Ada is", "a poet", "Ada") == [EditRequest("{} is", "Ada", "a poet")]
    assert from_easyedit([], [], []) == []


def test_portability_is_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="portability_inputs are left out") as caught:
        found = from_easyedit(
            "Ada is", "a poet", "Ada", portability_inputs={"one_hop": {"prompt": ["x"], "ground_truth": ["y"]}}
        )
    assert len(found) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": ["Ada Quill"]}, r"subject: 1 items for 2 prompts"),
        ({"target_new": "Marn"}, r"target_new: 1 items for 2 prompts"),
        ({"prompts": 3}, r"prompts: a int for 1 prompts"),
        ({"ground_truth": {"a": 1}}, r"ground_truth: a dict for 2 prompts"),
        (
            {"subject": ["Ada Quill", "Bo"], "prompts": ["Ada Quill is", "Oran is"]},
            r"^prompts\[1\]: the subject is not",
        ),
        ({"target_new": ["Marn", None]}, r"^prompts\[1\]: its target_new is a NoneType"),
        ({"target_new": [" ", "Ösel"]}, r"^prompts\[0\]: .*target_new is empty"),
        ({"rephrase_prompts": [3, None]}, r"^prompts\[0\]: .*paraphrase_prompts must be a text"),
        ({"locality_inputs": {"n": {"prompt": ["x", "y"]}}}, r"locality_inputs\['n'\] lacks"),
        (
            {"locality_inputs": {"n": {"prompt": ["x"], "ground_truth": ["y"]}}},
            r"locality_inputs\['n'\]\['prompt'\]: 1",
        ),
        (
            {"locality_inputs": {"n": {"prompt": ["x", ["y", "z"]], "ground_truth": ["1", "2"]}}},
            r"2 prompts have 1 answers at prompts\[1\]",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        from_easyedit(**{**GIVEN, **change})
