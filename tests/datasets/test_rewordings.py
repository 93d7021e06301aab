"""A sentence in other words is cut down to a prompt that its target can follow, or refused with the reason first."""

from __future__ import annotations

import pytest

from lifelong_edit.datasets.rewordings import LONGEST, cut_down
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest

ADA = EditRequest(
    "{} was born in",
    "Ada Quill",
    "Marn",
    "Oran",
    paraphrase_prompts=("The river rose. Ada Quill comes from",),
    wordings=("{} grew up in",),
)


@pytest.mark.parametrize(
    ("sentence", "wording"),
    [
        ("The birthplace of Ada Quill is Oran.", "The birthplace of {} is"),
        ("The town where Ada Quill was born is called Oran, near the river.", "The town where {} was born is called"),
        ("Where was Ada Quill born? In Oran.", "Where was {} born? In"),
        ("Ada Quill is a native of oran", "{} is a native of"),
        ("Ada Quill's home town:\tOran!", "{}'s home town:"),
    ],
)
def test_a_wording_ends_where_the_answer_begins(sentence: str, wording: str) -> None:
    assert cut_down(ADA, sentence, "Oran") == wording


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("She was born in Oran.", "the subject is not in the prompt"),
        ("Ada Quill, as Ada Quill says, is from Oran.", "the subject stands in the prompt twice"),
        ("Ada Quills are from Oran.", "the subject is part of a longer word"),
        ("ada quill is from Oran.", "the subject has other capitals in the prompt"),
        ("Ada Quill is from Kessel.", "the answer does not follow the subject"),
        ("Oran is where Ada Quill was born.", "the answer does not follow the subject"),
        ("Ada Quill comes from Oranje.", "the answer does not follow the subject"),
        ("Ada Quill has an Oran passport.", "the answer ends no clause"),
        ("Ada Quill comes from the Oran-Tarsis plain.", "the answer ends no clause"),
        ("The Marnish town of Ada Quill is Oran.", "the wording tells an answer"),
        ("Oran's daughter Ada Quill is from Oran.", "the wording tells an answer"),
        ("Ada Quill travels. Her home is Oran.", "the wording is more than one sentence"),
        (f"Ada Quill is {'very ' * LONGEST}much from Oran.", "the wording is too long"),
        ("Ada Quill lives in an Oran.", "the article does not fit the target"),
        ("Ada  quill was born in Oran.".replace("q", "Q").replace("  ", " "), "the request refuses it"),
        ("Ada Quill grew up in Oran.", "the request refuses it"),
        ("Ada Quill comes from Oran.", "the request refuses it"),
    ],
)
def test_a_sentence_that_gives_no_wording_is_refused_with_the_reason_first(sentence: str, reason: str) -> None:
    with pytest.raises(RequestError) as error:
        cut_down(ADA, sentence, "Oran")
    assert str(error.value).partition(":")[0] == reason


def test_an_answer_inside_the_subject_is_the_subjects() -> None:
    phone = EditRequest("{} is made by", "Norvik One", "Kessel", "Norvik")
    assert cut_down(phone, "The maker of Norvik One is Norvik.", "Norvik") == "The maker of {} is"
