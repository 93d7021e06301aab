"""The bundled checkpoint is what its card says: it loads anywhere, knows its world, and keeps facts where edits go."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from lifelong_edit.editing.profile import suited
from lifelong_edit.editing.second_moments import read_moment, shipped_moments
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.scores import argmax_rate, score_edits
from lifelong_edit.tracking.trace import causal_trace
from lifelong_edit.world.generator import World, WorldFact
from lifelong_edit.world.requests import edit_requests
from lifelong_edit.world.skills import SKILLS, skill_tasks
from lifelong_edit.world.tasks import held_out_stories

FOLDER = Path(__file__).parents[2] / "checkpoints" / "tiny-world"
LIMIT = 16 * 2**20


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(0)


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return EditableModel.open(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def facts(world: World) -> list[WorldFact]:
    return random.Random("tiny world").sample(world.facts, 300)


def asked(world: World, facts: list[WorldFact], held_out: bool) -> list[tuple[str, str]]:
    """The facts in a template of theirs, a different one from fact to fact."""
    splits = [world.relation(fact).split_for(fact.subject)[held_out] for fact in facts]
    prompts = [
        texts[i % len(texts)].replace("{}", fact.subject)
        for i, (texts, fact) in enumerate(zip(splits, facts, strict=True))
    ]
    return [(prompt, fact.object) for prompt, fact in zip(prompts, facts, strict=True)]


def test_it_loads_as_a_plain_llama() -> None:
    model = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    assert type(model) is LlamaForCausalLM
    assert model.dtype == torch.bfloat16 and model.config.architectures == ["LlamaForCausalLM"]
    assert model.config.num_hidden_layers == 6 and len(tokenizer) == model.config.vocab_size == 2_048
    assert (FOLDER / "README.md").is_file()


def test_its_weights_are_one_small_file_in_bfloat16() -> None:
    (file,) = FOLDER.glob("*.safetensors")
    assert file.stat().st_size <= LIMIT
    with safe_open(file, "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118


def test_its_folder_holds_nothing_that_could_run() -> None:
    suffixes = {path.suffix for path in FOLDER.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".md", ".safetensors"}


def test_the_edited_weight_takes_768_inputs(editable: EditableModel) -> None:
    assert {editable.shape(layer) for layer in range(editable.layers)} == {(256, 768)}


def test_subjects_have_several_tokens(editable: EditableModel, world: World) -> None:
    people = world.entities["person"]
    counts = [len(editable.tokenizer(name, add_special_tokens=False).input_ids) for name in people]
    assert min(counts) >= 2 and sum(counts) / len(counts) > 3


@pytest.mark.parametrize(("held_out", "least"), [(False, 0.99), (True, 0.98)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_it_knows_its_world(
    world: World, facts: list[WorldFact], held_out: bool, least: float, dtype: torch.dtype
) -> None:
    editable = EditableModel.open(FOLDER, dtype=dtype)
    assert argmax_rate(editable.model, editable.tokenizer, asked(world, facts, held_out)) >= least


def test_it_has_skills(editable: EditableModel) -> None:
    rates = [argmax_rate(editable.model, editable.tokenizer, skill_tasks(skill, 100, 0)) for skill in SKILLS]
    assert sum(rate >= 0.95 for rate in rates) >= 4


def test_it_reads_stories_with_facts_well(editable: EditableModel, world: World) -> None:
    stories = held_out_stories(world, 100, 0)
    people = sorted(world.entities["person"], key=len)
    swapped = [story.replace(name, people[0]) for story in stories for name in people if name in story]
    told = perplexity(editable.model, editable.tokenizer, stories)
    assert told < 2.1
    assert perplexity(editable.model, editable.tokenizer, swapped) > 1.3 * told  # the facts are in it


def test_facts_are_looked_up_at_the_subjects_last_token(editable: EditableModel, facts: list[WorldFact]) -> None:
    """The early site of ROME: one state restored there, at a layer of the lower half, brings the object back."""
    trace = causal_trace(editable, traced(facts[:20]), samples=3)
    subject, prompt = trace.recovered()
    assert trace.clean > 0.9 and trace.corrupted < 0.3
    assert max(subject[:3]) >= 0.85
    assert max(prompt[:3]) < 0.3 and prompt[-1] > 0.99


def traced(facts: list[WorldFact]) -> list[EditRequest]:
    world = World.generate(0)
    requests = []
    for fact in facts:
        _, texts = world.relation(fact).split_for(fact.subject)
        template = next(text for text in texts if not text.endswith(("{}", "Answer:")))
        requests.append(EditRequest(template, fact.subject, fact.object))
    return requests


def test_edits_start_from_the_truth(editable: EditableModel, world: World) -> None:
    found = score_edits(editable, edit_requests(world, 30, 0))
    assert found.ea == found.pa == 0.0 and found.es is not None and found.es <= 0.05
    assert found.ns is not None and found.ns >= 0.95 and found.na is not None and found.na >= 0.95
    assert found.aa is not None and found.aa >= 0.95


def test_second_moments_are_shipped_for_the_layers_edited_by_default(editable: EditableModel) -> None:
    layers = suited(EditorSettings(), FOLDER).resolved(editable)
    files = shipped_moments(FOLDER, dict.fromkeys(layers, 768), fingerprint(editable))
    for data in files.values():
        moment, about = read_moment(data)
        assert moment.matrix.shape == (768, 768) and moment.count == about["tokens"] == 200_000
        torch.testing.assert_close(moment.matrix, moment.matrix.T, rtol=1e-12, atol=1e-12)
        assert float(torch.linalg.eigvalsh(moment.matrix)[0]) > 0
