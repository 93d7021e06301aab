"""The quality of real edits is measured on what nobody was given, and scored as one would by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lifelong_edit.editing.profile import suited
from lifelong_edit.editing.settings import EditorSettings
from real_facts import POOLS, ROLES, SEEDS, Material, check_disjoint, role
from real_quality import requested, settings_of
from real_scores import FORMS, answers, changes, first_choices, store_as
from real_table import table, wilson
from tests.real_data import NEEDS_REAL_DATA

MODEL = "checkpoints/tiny-world"
ASKED = [("Once upon a time", "there was a"), ("The", "cat"), ("What does Zuvou Quidirn cook best? Answer:", "pizza")]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), AutoTokenizer.from_pretrained(MODEL)


@NEEDS_REAL_DATA
@pytest.mark.parametrize("pool", POOLS)
def test_what_is_measured_is_apart_between_seeds_and_from_what_is_given(pool: str) -> None:
    material = Material(pool, AutoTokenizer.from_pretrained(MODEL))
    given, draws = material.given(), [material.draw(seed, 100) for seed in range(SEEDS)]
    assert len([requested(fact, worded=True) for fact in material.facts()]) > 500  # none is refused
    for draw in draws:
        check_disjoint(draw, given)
        assert {role(fact.subject) for fact in draw.facts} == {pool} and len(draw.others) > 250
    for a, b in combinations(draws, 2):
        assert not {fact.subject for fact in a.facts} & {fact.subject for fact in b.facts}
        assert not {other.subject for other in a.others} & {other.subject for other in b.others}
        assert not {*a.passages, *a.strange} & {*b.passages, *b.strange}
    assert {prompt.relation for prompt in given.prompts} == given.relations
    assert {other.relation for other in draws[0].others} > given.relations  # those of which no prompt is given too


def test_roles_have_their_shares() -> None:
    drawn = [role(f"subject {n}") for n in range(4_000)]
    assert [drawn.count(name) / 40 for name in ROLES] == pytest.approx(list(ROLES.values()), abs=3)


@torch.no_grad()
def test_answers_in_a_batch_are_those_of_a_plain_loop(tiny: Any) -> None:
    model, tokenizer = tiny
    for found, (prompt, answer) in zip(answers(model, tokenizer, ASKED), ASKED, strict=True):
        ids, p, right = tokenizer(prompt).input_ids, 1.0, True
        wanted = tokenizer(" " + answer, add_special_tokens=False).input_ids
        first = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        for token in wanted:
            chances = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            p, right = p * float(chances[token]), right and int(chances.argmax()) == token
            ids = [*ids, token]
        assert found["p"] == pytest.approx(p ** (1 / len(wanted)), abs=1e-3)
        assert (found["right"], found["first"]) == (right, first)


@pytest.mark.parametrize(("form", "levels", "worst"), [("Q8_0", 255, 0.5 / 127), ("Q4_0", 16, 1 / 8)])
def test_a_block_is_kept_in_few_levels_near_its_weights(form: str, levels: int, worst: float) -> None:
    blocks = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    blocks[0] = 0
    kept, size = FORMS[form](blocks), blocks.abs().amax(1, keepdim=True)
    assert max(len(row.unique()) for row in kept) <= min(levels, 32)
    assert ((kept - blocks).abs() <= size * (worst + 1e-6)).all()
    assert torch.allclose(kept.abs().amax(1), size[:, 0]) and torch.allclose(FORMS[form](kept), kept, atol=1e-6)


def test_a_model_stored_in_fewer_bits_moves_in_its_matrices_alone(tiny: Any) -> None:
    base = tiny[0]
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    assert changes(model, base) == {}
    store_as(model, "Q4_0")
    moved = changes(model, base)
    assert moved.keys() == {name for name, weight in base.named_parameters() if weight.dim() == 2}
    assert all(0.02 < size < 0.2 for size in moved.values())


def test_first_choices_are_one_a_token(tiny: Any) -> None:
    texts = ["Once upon a time, there was a little girl named", "The king of the old town said that he was glad"]
    assert len(first_choices(*tiny, texts, 6)) == 12


def test_a_setting_is_named_by_its_path_and_the_others_stay_open() -> None:
    settings = settings_of(Path(MODEL), 7, ["target.clamp=0.5", "layers=[1, 0]"])
    assert settings == EditorSettings(
        (0, 1), target=replace(suited(EditorSettings(), Path(MODEL)).recipe, clamp=0.5), seed=7
    )
    assert settings_of(Path(MODEL), 0, []) == EditorSettings() != settings


def test_wilson_holds_the_share_and_is_not_empty_at_the_ends() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.404, 0.596), abs=1e-3)
    assert wilson(1.0, 60) == pytest.approx((0.940, 1.0), abs=1e-3)


def answer(right: bool, p: float, first: int) -> dict[str, Any]:
    return {"right": right, "p": p, "first": first}


def test_a_line_of_the_table_counts_against_the_base() -> None:
    job = {"model": "m", "pool": "test", "seed": 0}
    before = [answer(True, 0.5, 1), answer(True, 0.1, 2), answer(True, 0.5, 3)]  # known, not surely, known
    after = [answer(False, 0.25, 9), answer(False, 0.1, 2), answer(True, 0.5, 9)]
    base = {"job": {"row": "base", **job}, "kept": [0, 1, 900], "given": [True, False, True], "others": before}
    edited = {
        "job": {"row": "wordings", **job, "count": 2, "options": {}}, "others": after, "cases": ["a", "b"],
        "failed": ["a"], "efficacy": [[answer(True, 1, 0)], [answer(False, 0, 0)]], "strange": [], "begins": [True],
        "paraphrases": [[answer(True, 1, 0)] * 2, [answer(True, 1, 0), answer(False, 0, 0)]], "text": [1, 2, 3, 5],
    }  # fmt: skip
    line = table([base | {"text": [1, 2, 3, 4]}, edited]).splitlines()[-1]
    cells = [cell.split()[0] for cell in line.strip("|").split("|")]
    # 0.500 of two facts, 3 of 4 paraphrases, one of two known kept, their p 0.75 of before, 1 of 2 first choices (the
    # third prompt is not among those that count), and fact b called written though it is not said
    assert cells[1:] == ["1", "0.500", "0.750", "-", "1.000", "0.500", "0.750", "0.500", "0.000", "1.000", "0.750", "1"]
