"""Honest scores: laws on small random models, counts by hand, and the bundled model, which knows facts by heart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from lifelong_edit.facts import EditRequest, Message
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.generation import greedy
from lifelong_edit.tracking.honest import (
    DISTRACTION,
    LENGTH,
    MARKS,
    Answers,
    HonestScores,
    Sheet,
    answered,
    cut,
    honest_scores,
    paired,
    share,
    sheets_of,
)
from lifelong_edit.tracking.scores import score_continuations
from lifelong_edit.world.generator import World
from lifelong_edit.world.requests import edit_requests
from tests.models import SENTENCES, small_editable

ADA = EditRequest("The home of {} is", "Ada Quill", "Marn", "Oran", neighborhood_prompts=("Bo is", ("Ana is", "x")))
BO = EditRequest("Where does {} live? In", "Bo Lund", "Kessel", "Oran")
SHEETS = [
    Sheet("ada", ADA, "The river rose. ", ("Bo is", "Ana is")),
    Sheet("bo", BO, "", ("Ösel",)),
    Sheet("emile", EditRequest("{} speaks", "Émile Zorn", "Veltish")),
]
EOS = 1


def held(answers: list[Answers], mark: str) -> list[bool]:
    return [flag for own in answers for flag in own.marks[mark]]


def test_a_model_says_what_it_knows_by_heart_and_nothing_else() -> None:
    by_heart = EditableModel.open(Path(__file__).parents[2] / "checkpoints" / "tiny-world", dtype=torch.float32)
    edits = edit_requests(World.generate(0), 12, seed=3)
    known = [replace(edit, target_new=str(edit.target_true), target_true=edit.target_new) for edit in edits]
    for requests, expected in ((known, True), (edits, False)):
        found = answered(by_heart, sheets_of(by_heart, {str(n): r for n, r in enumerate(requests)}, ""))
        for mark in ("exact", "contains", "begins", "choice"):
            assert held(found, mark) == [expected] * len(edits), mark
        assert len({own.first_choices for own in found}) > 1 and held(found, "distracted") == []


def test_what_is_told_stands_in_front_of_every_prompt() -> None:
    editable = small_editable("llama")
    ada, bo, emile = answered(editable, SHEETS, told=True)
    fact = "The home of Ada Quill is Marn. "
    question = "The home of Ada Quill is"
    assert (
        ada.said == greedy(editable, [fact + question], LENGTH, EOS)[0] != greedy(editable, [question], LENGTH, EOS)[0]
    )
    assert ada.distracted == greedy(editable, [f"{fact}The river rose. {question}"], LENGTH, EOS)[0]
    assert list(ada.first_choices) == greedy(editable, [f"{fact}Bo is", f"{fact}Ana is"], 1)
    told = "Where does Bo Lund live? In Kessel. Where does Bo Lund live? In"
    assert (bo.said, bo.distracted) == (greedy(editable, [told], LENGTH, EOS)[0], None)
    assert emile.first_choices == ()


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_likelier_is_compared_in_the_words_of_the_table(seed: int, told: bool) -> None:
    editable = small_editable("llama", seed=seed)
    head = "The home of Ada Quill is Marn. " if told else ""
    asked = [
        ("The home of Ada Quill is", "Marn"),
        ("The home of Ada Quill is", "Oran"),
        ("It is true that the home of Ada Quill is", "Marn"),
        ("It is not true that the home of Ada Quill is", "Marn"),
        ("Is it true that the home of Ada Quill is Marn? Answer:", "Yes"),
        ("Is it true that the home of Ada Quill is Marn? Answer:", "No"),
        ("Is it true that the home of Ada Quill is Oran? Answer:", "Yes"),
        ("Is it true that the home of Ada Quill is Oran? Answer:", "No"),
    ]
    pairs = [(head + prompt, target) for prompt, target in asked]
    new, true, yes, no, new_yes, new_no, true_yes, true_no = (
        score.nll for score in score_continuations(editable.model, editable.texts, pairs)
    )
    marks = answered(editable, SHEETS, told)[0].marks
    assert marks["choice"] == (new < true,) and marks["negation"] == (yes < no,)
    assert marks["check new"] == (new_yes < new_no,) and marks["check true"] == (true_no < true_yes,)


def test_a_mark_that_a_fact_lacks_something_for_is_empty() -> None:
    editable = small_editable("llama")
    empty = [{mark for mark, flags in own.marks.items() if not flags} for own in answered(editable, SHEETS)]
    doubts, bare = {"negation", "check new", "check true"}, {"kept", "chat"}
    assert empty == [bare, {*bare, "distracted", *doubts}, {*bare, "distracted", "choice", "check true"}]
    assert all(set(own.marks) == set(MARKS) for own in answered(editable, SHEETS))


TEMPLATE = "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + '\n' }}{% endfor %}<model> "
TOLD = EditRequest(
    "<user> Where is {}?\n<model> ", "Ada Quill", "Marn", "Oran", messages=(Message("user", "Where is {}?"),)
)


@pytest.mark.parametrize("told", [False, True])
def test_with_a_chat_template_every_fact_is_asked_as_a_message_too(told: bool) -> None:
    editable = small_editable("llama")
    editable.tokenizer.chat_template = TEMPLATE
    sheets = [SHEETS[0], Sheet("told", TOLD, "The river rose. ")]
    ada, chat = answered(editable, sheets, told)
    head, own = ("The home of Ada Quill is Marn. ", "Where is Ada Quill? Marn. ") if told else ("", "")
    prompts = [
        f"<user> {head}The home of Ada Quill is\n<model> ",
        f"<user> {own}Where is Ada Quill?\n<model> ",
        f"<user> {own}The river rose. Where is Ada Quill?\n<model> ",
    ]
    plain, asked, behind = greedy(editable, prompts, LENGTH, EOS)
    assert (ada.chat, chat.chat, chat.said, chat.distracted) == (plain, asked, asked, behind)
    assert chat.marks["negation"] == chat.marks["check new"] == ()  # a conversation states nothing
    pairs = [(prompts[1], "Marn"), (prompts[1], "Oran")]
    new, true = (score.nll for score in score_continuations(editable.model, editable.texts, pairs))
    assert chat.marks["choice"] == (new < true,)


def test_an_answer_to_a_message_holds_the_object_or_not() -> None:
    editable = small_editable("llama")
    editable.tokenizer.chat_template = TEMPLATE
    said = greedy(editable, ["<user> The home of Ada Quill is\n<model> "], LENGTH, EOS)[0]
    for target, held_by in ((said.split()[0], (True,)), ("Marn Marn", (False,))):
        (own,) = answered(editable, [Sheet("ada", replace(ADA, target_new=target))])
        assert own.marks["chat"] == held_by


def test_first_choices_are_held_against_those_of_the_base() -> None:
    one, other = small_editable("llama"), small_editable("llama", seed=1)
    base = answered(one, SHEETS)
    assert held(answered(one, SHEETS, base=base), "kept") == [True] * 3
    found = answered(other, SHEETS, base=base)
    prompts = ["Bo is", "Ana is", "Ösel"]
    assert held(found, "kept") == [
        a == b for a, b in zip(greedy(one, prompts, 1), greedy(other, prompts, 1), strict=True)
    ]
    assert not all(held(found, "kept"))


def test_a_generation_config_does_not_touch_an_answer() -> None:
    editable = small_editable("llama")
    plain = answered(editable, SHEETS)
    ids = editable.tokenizer(ADA.question, return_tensors="pt").input_ids
    own = editable.model.generate(ids, max_new_tokens=LENGTH, do_sample=False)[0, ids.shape[1] :]
    banned = [int(token) for token in own[:1]]
    editable.model.generation_config = GenerationConfig(
        repetition_penalty=9.0, num_beams=3, suppress_tokens=banned, no_repeat_ngram_size=2, max_new_tokens=3
    )
    steered = editable.model.generate(ids)[0, ids.shape[1] :]
    assert int(steered[0]) not in banned, "the config would steer"
    assert answered(editable, SHEETS) == plain


@pytest.mark.parametrize(
    ("said", "target", "exact", "contains", "begins"),
    [
        (" Marn. He", "Marn", True, True, True),
        (" Marn", " Marn ", True, True, True),
        (" marn\nBo", "Marn", True, True, True),
        (" the Marn!", "Marn", True, True, True),
        (" Marn, where", "Marn", False, True, True),
        (" in Marn.", "Marn", False, True, False),
        (" Oran.\nMarn", "Marn", False, True, False),
        (" Marnia.", "Marn", False, False, False),
        (" St. Louis. It", "St. Louis", True, True, True),
        (" St. Paul. It", "St. Louis", False, False, False),
        (" Marn Inc. It", "Marn Inc.", True, True, True),
        (" 1.5. It", "1.5", True, True, True),
        (" 15th", "15", False, False, False),
        ("北京市。", "北京", False, True, True),
        ("北京。它", "北京", True, True, True),
        (" The", "The", True, True, True),
        ("", "Marn", False, False, False),
    ],
)
def test_an_answer_is_read_as_a_person_reads_it(
    said: str, target: str, exact: bool, contains: bool, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifelong_edit.tracking.honest.greedy", lambda _, prompts, *__: [said] * len(prompts))
    sheet = Sheet("id", EditRequest("{} is", "Ada", target), "The river rose. ")
    marks = answered(small_editable("llama"), [sheet])[0].marks
    assert (marks["exact"], marks["contains"], marks["begins"]) == ((exact,), (contains,), (begins,))
    assert marks["distracted"] == marks["begins"]


def test_shares_are_pooled_over_prompts() -> None:
    editable = small_editable("llama")
    base = answered(editable, SHEETS)
    edited = answered(small_editable("llama", seed=1), SHEETS, base=base)
    found = honest_scores(SHEETS, base, base, edited)
    assert set(found.shares) == set(MARKS) and [fact.id for fact in found.facts] == ["ada", "bo", "emile"]
    assert found.shares["kept"].base.value is None and found.shares["kept"].base.reason
    assert found.shares["kept"].edited.count == 3 and found.shares["choice"].edited.count == 2
    flags = held(edited, "negation")
    assert found.shares["negation"].edited == share(flags) and found.shares["negation"].edited.count == 2


def test_wilsons_interval_holds_the_share_and_is_not_empty_at_its_ends() -> None:
    for said, count, low, high in (
        (8, 10, 0.490, 0.943),
        (0, 10, 0.0, 0.278),
        (10, 10, 0.722, 1.0),
        (1, 3, 0.061, 0.792),
    ):
        figure = share([True] * said + [False] * (count - said))
        assert figure.interval == pytest.approx((low, high), abs=1e-3) and figure.count == count
        assert figure.interval[0] <= said / count == figure.value <= figure.interval[1]


def test_distractions_are_stretches_of_whole_words_one_after_the_other() -> None:
    editable = small_editable("llama")
    text = " ".join(f"{n} {SENTENCES[n % 4]}" for n in range(40))
    found = cut(editable, text, 8)
    lengths = [len(editable.tokenizer(stretch).input_ids) for stretch in found]
    assert min(lengths) >= DISTRACTION - 2 and max(lengths) < DISTRACTION + 25
    words = [word.strip(".") for word in " ".join(found).split()]
    assert words == [word.strip(".") for word in text.split()][: len(words)]
    assert all(stretch.endswith(". ") for stretch in found)
    again = cut(editable, text, 500)
    assert again[:8] == found and len(again) == 500 and again.count(found[0]) > 1


def test_a_short_text_is_repeated_and_one_without_blanks_is_cut() -> None:
    editable = small_editable("llama")
    (short,) = cut(editable, "The river.", 1)
    assert short.startswith("The river. The river") and len(editable.tokenizer(short).input_ids) >= DISTRACTION - 2
    assert all(len(stretch) < 200 for stretch in cut(editable, "x" * 2_000, 5))


def test_other_subjects_are_the_neighbours_or_else_the_watch_dealt_out() -> None:
    editable = small_editable("llama")
    own = sheets_of(editable, {"ada": ADA, "bo": BO}, "", ["A", "B", "C"])
    assert [sheet.others for sheet in own] == [("Bo is", "Ana is"), ()]
    dealt = sheets_of(editable, {"bo": BO, "ada": replace(ADA, neighborhood_prompts=())}, "", ["A", "B", "C"])
    assert [sheet.others for sheet in dealt] == [("A", "C"), ("B",)]
    assert [sheet.distraction for sheet in own] == ["", ""]
    assert sheets_of(editable, {}, "The river.") == []


def one_mark(flags: Sequence[tuple[bool | None, bool | None]]) -> HonestScores:
    """Facts of which only `choice` is known, of the base and of the edited model; None for one that lacks its needs."""

    def answers(flag: bool | None) -> Answers:
        return Answers("", None, None, (), {mark: () for mark in MARKS} | {"choice": () if flag is None else (flag,)})

    sheets = [Sheet(str(n), ADA) for n in range(len(flags))]
    base, edited = ([answers(pair[side]) for pair in flags] for side in (0, 1))
    return honest_scores(sheets, base, base, edited)


def test_what_changes_is_told_fact_by_fact() -> None:
    found = paired(one_mark([(True, False), (False, True), (True, True), (None, True), (False, False), (False, True)]))
    assert (found["choice"].gained, found["choice"].lost) == (("1", "5"), ("0",))
    assert found["choice"].difference.value == pytest.approx(1 / 5) and found["choice"].difference.count == 5
    assert found["exact"].difference.value is None and found["exact"].gained == ()


@pytest.mark.parametrize(
    ("gained", "lost", "same", "low", "high"),
    [
        # Agresti and Min (2005), with 1.96: (c - b) / (n + 2) +- 1.96 sqrt(b + c + 1 - (c - b)^2 / (n + 2)) / (n + 2)
        (0, 0, 10, -1.96 / 12, 1.96 / 12),
        (6, 2, 12, 4 / 22 - 1.96 * math.sqrt(9 - 16 / 22) / 22, 4 / 22 + 1.96 * math.sqrt(9 - 16 / 22) / 22),
    ],
)
def test_the_interval_of_a_difference_is_that_of_pairs(
    gained: int, lost: int, same: int, low: float, high: float
) -> None:
    flags = [(False, True)] * gained + [(True, False)] * lost + [(True, True)] * same
    figure = paired(one_mark(flags))["choice"].difference
    assert figure.interval == pytest.approx((low, high)) and figure.value is not None
    assert low <= figure.value <= high
