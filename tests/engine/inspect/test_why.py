"""Why a fact is lost: every stage is what it says it is, and seeded failures are found at their own stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lifelong_edit.datasets.jsonl import load_requests
from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.editing.keys import collect_keys
from lifelong_edit.editing.layered import LayeredSettings
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.inspect.why import STRANGE, WAY, Why
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.stage import Stage
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.model.tokens import encode
from lifelong_edit.tracking.scores import score_continuations
from lifelong_edit.world.generator import World
from lifelong_edit.world.requests import edit_requests
from tests.engine.editors import BATCHES, EVERY_KIND, WORK, base_model, edited, record_of
from tests.samples import QUICK, REQUESTS, lively_editable, new_editor

TINY_WORLD = Path(__file__).parents[3] / "checkpoints" / "tiny-world"
EXAMPLES = Path(__file__).parents[3] / "examples" / "edits.jsonl"
LAYERED = LayeredSettings(steps=6, stride=0.5, clamp=3.0, gaps=0, sensitivity_tokens=0, coarse=False)


def stages(editor: LifelongEditor, fact: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in editor.why(fact).stages}


def assert_as_scored(stage: Stage, editable: EditableModel, prompts: Sequence[str], target: str) -> None:
    """The stage says what scores of these prompts say."""
    scores = score_continuations(editable.model, editable.texts, [(prompt, target) for prompt in prompts])
    assert stage.said == pytest.approx(sum(score.argmax for score in scores) / len(scores))
    assert -math.log(stage.probability) == pytest.approx(sum(score.nll for score in scores) / len(scores), rel=1e-3)
    if len(scores) == 1:
        assert (stage.margin > 0) == scores[0].argmax


@EVERY_KIND
def test_written_and_now_are_what_the_states_of_then_and_now_say(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", [*BATCHES, [WORK]], **kind) as editor:
        before = fingerprint(editor.editable), len(editor.history())
        for fact in (REQUESTS[0], REQUESTS[3]):
            found = stages(editor, str(fact.id))
            then = editor.at(editor.facts()[str(fact.id)].seq)
            assert_as_scored(found["written"], then.editable, [fact.question], fact.target_new)
            assert_as_scored(found["now"], editor.editable, [fact.question], fact.target_new)
            assert found["written"].probability != found["now"].probability
        assert (fingerprint(editor.editable), len(editor.history())) == before


@pytest.mark.parametrize("memory", ["batch", "joint"])
def test_alone_is_a_store_of_this_fact_and_no_other(memory: str, tmp_path: Path) -> None:
    with edited(tmp_path / "all", memory=memory) as editor, edited(tmp_path / "one", [], memory=memory) as lonely:
        lonely.apply([REQUESTS[4]])
        found, other = stages(editor, "ana"), stages(lonely, "ana")
        assert found["alone"].probability == pytest.approx(other["now"].probability, rel=1e-4)
        assert found["alone"].probability != pytest.approx(found["now"].probability, rel=1e-4)


@pytest.mark.parametrize("model", ["gpt2", "llama", "gemma2", "gemma3_text"])
def test_an_injected_target_has_the_loss_that_it_was_found_with(model: str, tmp_path: Path) -> None:
    """Without contexts and penalties J is the bare prompt's mean -log p, with the delta in and no weight written."""
    plain = replace(QUICK, decay=0.0, kl=0.0)
    with new_editor(tmp_path / "store", lively_editable(model), contexts=0, target=plain) as editor:
        commit = editor.apply(REQUESTS[:2], ridge=100.0)
        assert commit.entry is not None
        for request, loss in zip(REQUESTS[:2], commit.entry.body["loss"], strict=True):
            found = stages(editor, str(request.id))
            assert -math.log(found["target"].probability) == pytest.approx(loss, rel=1e-3)
            assert found["target"].probability != pytest.approx(found["alone"].probability, rel=1e-3)


@contextmanager
def adding(editable: EditableModel, residuals: dict[int, Tensor], at: int) -> Iterator[None]:
    """Plain hooks that add a residual at one position of what each edited weight gives."""
    with ExitStack() as stack:
        for layer, residual in residuals.items():
            moved = torch.zeros(at + 1, len(residual))
            moved[at] = residual
            hook = editable.write(layer).register_forward_hook(
                lambda _module, _args, out, moved=moved: (
                    out + torch.nn.functional.pad(moved, (0, 0, 0, out.shape[1] - len(moved)))
                )
            )
            stack.callback(hook.remove)
        yield


def test_targets_of_several_layers_are_injected_together(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:3]], target=LAYERED, layers=(0, 1)) as editor:
        record = str(editor.head.record)
        for index, request in enumerate(REQUESTS[:3]):
            residuals = {
                n: torch.from_numpy(record_of(tmp_path / "store", record, n)["base_residuals"][:, index]).float()
                for n in (0, 1)
            }
            base = base_model()
            with adding(base, residuals, encode(base.texts, request).subject_last):
                found = stages(editor, str(request.id))["target"]
                assert_as_scored(found, base, [request.question], request.target_new)


def test_strange_sentences_are_the_stores_own_as_far_as_the_fact_was_not_fitted_to_them(tmp_path: Path) -> None:
    fact = replace(REQUESTS[0], wordings=("The birthplace of {} is",), paraphrase_prompts=("Home of Ada Quill:",))
    text = [f"The road to {name} is long and winds along the river." for name in "abcdefghijklmnop"]
    with new_editor(tmp_path / "store", base_model(), text, target=LAYERED, contexts=3) as editor:
        editor.apply([fact])
        fitted = {form.prefix for form in editor.kind.forms(editor.editable.texts, fact)}
        strange = [context for context in editor.contexts if context not in fitted]
        assert len(editor.contexts) > len(strange) > 0
        found, prompts = stages(editor, "ada"), [context + fact.question for context in strange[:8]]
        assert_as_scored(found["behind a sentence"], editor.editable, prompts, fact.target_new)
        words = ["The birthplace of Ada Quill is", "Home of Ada Quill:"]
        assert_as_scored(found["in other words"], editor.editable, words, fact.target_new)
    with edited(tmp_path / "other", [REQUESTS[:1]]) as editor:
        assert [*stages(editor, "ada")][-1] == "behind a sentence"


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ((1, 1, 1, 1, 1, 1), None),
        ((0, 0, 0, 0, 0, 0), "target"),
        ((1, 0, 0, 0, 0, 0), "alone"),
        ((0, 0, 1, 0, 0, 0), "now"),  # its neighbours had brought it out
        ((0, 1, 0, 1, 1, 0), "in other words"),
        ((0, 0, 0, 1, 0.4, 0), "behind a sentence"),
        ((1, 1, 1, 1, 0.5, 0.5), None),
    ],
)
def test_a_fact_is_lost_after_the_last_stage_of_its_way_that_holds(said: tuple[float, ...], lost: str | None) -> None:
    names = ("target", "alone", "written", "now", "behind a sentence", "in other words")
    found = Why("ada", "Marn", tuple(Stage(name, one, 0.5, 0.0) for name, one in zip(names, said, strict=True)))
    assert (found.lost and found.lost.name) == lost


def test_a_key_of_another_fact_is_told_from_a_ridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(*given: Any) -> Tensor:
        return collect_keys(*given).roll(1, dims=1)

    hard = replace(QUICK, steps=40)
    with edited(tmp_path / "ridge", [], target=hard, contexts=0) as editor:
        editor.apply([REQUESTS[0]], ridge=1e6)
        lost = editor.why("ada").lost
        assert lost is not None and lost.name == "alone" and "with a ridge of 0 it is said" in str(lost.advice)
    monkeypatch.setattr("lifelong_edit.kinds.kernel.write.collect_keys", swapped)
    with edited(tmp_path / "key", [REQUESTS[:2]], target=hard, contexts=0) as editor:
        lost = editor.why("ada").lost
        assert lost is not None and lost.name == "alone" and "The key misses the prompt" in str(lost.advice)


def test_only_an_active_edit_can_be_asked(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        editor.revert("ada", probe=0)
        editor.replace("bo", "Marn")
        editor.protect([replace(WORK, id="kept")])
        for name, told in (("ada", "reverted"), ("bo", "superseded"), ("kept", "protected"), ("nobody", "unknown")):
            with pytest.raises(RequestError, match=told):
                editor.why(name)
        editor.checkout(0)
        with pytest.raises(RequestError, match="shows seq 0"):
            editor.why("emile")
    with LifelongEditor.open(tmp_path / "store") as reader, pytest.raises(RequestError, match="without a model"):
        reader.why("emile")


# Failures of each kind, seeded on the bundled model, which knows facts to lose: ten are found at their own stage.

FACTS = [
    replace(request, id=f"fact-{n}", paraphrase_prompts=())
    for n, request in enumerate(edit_requests(World.generate(0), 18, seed=3))
]
TEN = 10


def rivals(facts: Sequence[EditRequest], heads: Sequence[str]) -> list[EditRequest]:
    """Facts that say what was true before, in prompts with nearly the same keys."""
    return [
        replace(
            fact, prompt=head + fact.prompt, target_new=str(fact.target_true), target_true=None, id=f"{fact.id}-{n}"
        )
        for n, head in enumerate(heads)
        for fact in facts
    ]


def turned(request: EditRequest) -> EditRequest:
    """The request, asked about its subject with the names in the other order, where its key is another one."""
    name = ", ".join(reversed(request.subject.split()))
    return replace(request, paraphrase_prompts=(request.prompt.replace("{}", name),))


@dataclass(frozen=True)
class Seed:
    """A store in which facts are lost at `stage`, and what the advice names."""

    batches: list[list[EditRequest]]
    choices: dict[str, Any]
    stage: str
    advice: str


SEEDS = {  # where not every fact is lost, there are more of them
    "target": Seed([FACTS[:12]], {"target": TargetSettings(steps=1)}, "target", "steps (now 1)"),
    "ridge": Seed([FACTS[:12]], {"ridge": 1e6, "halvings": 0}, "alone", "with a ridge of 0 it is said"),
    "key": Seed([FACTS[:12]], {}, "alone", "The key misses the prompt"),
    "later": Seed([FACTS, rivals(FACTS, ["They say: "])], {}, "now", "2 (+"),
    "contexts": Seed([FACTS], {"contexts": 0}, "behind a sentence", "(now 0)"),
    "wordings": Seed([[turned(fact) for fact in FACTS]], {"contexts": 12}, "in other words", "wordings (now 0)"),
}


def bundled(folder: Path, **choices: Any) -> LifelongEditor:
    return LifelongEditor.create(folder, TINY_WORLD, EditorSettings(**choices), dtype=torch.float32)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """What `why` asks behind in a store without text, sampled once: it is the same for every fact."""
    return list(
        sample_contexts(EditableModel.open(TINY_WORLD, dtype=torch.float32), STRANGE, EditorSettings().seed + 1)
    )


@pytest.mark.parametrize("name", SEEDS)
def test_ten_seeded_failures_are_found_at_their_stage(
    name: str, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fact that a seed makes the model lose is told to be lost where it was seeded."""
    monkeypatch.setattr("lifelong_edit.engine.inspect.why.sample_contexts", lambda *_given: sentences)
    seed = SEEDS[name]
    if name == "key":  # every fact is written through the key of another one
        monkeypatch.setattr(
            "lifelong_edit.kinds.kernel.write.collect_keys", lambda *given: collect_keys(*given).roll(1, dims=1)
        )
    with bundled(tmp_path / "store", **seed.choices) as editor:
        for batch in seed.batches:
            editor.apply(batch)
        found = [editor.why(str(fact.id)) for fact in seed.batches[0]]
    if seed.stage in WAY:  # of the bare prompt: what is said there now was not lost
        found = [one for one in found if not {stage.name: stage for stage in one.stages}["now"].holds]
    elif seed.stage == "in other words":  # its store has contexts as others have, and some facts are lost behind those
        found = [one for one in found if {stage.name: stage for stage in one.stages}["behind a sentence"].holds]
    lost = [one.lost for one in found if one.lost is not None]
    assert len(lost) >= TEN
    assert {stage.name for stage in lost} == {seed.stage}
    assert all(seed.advice in str(stage.advice) for stage in lost)


def test_facts_that_others_of_their_batch_drown_are_told_so(tmp_path: Path) -> None:
    """Without halvings the ridge loses many other facts by themselves: these two it keeps."""
    by_id = {str(request.id): request for request in load_requests(EXAMPLES)}
    drowned = [replace(by_id[id], paraphrase_prompts=()) for id in ("skabam-joquorn", "paki-fleasor")]
    said = dict(zip((str(fact.id) for fact in drowned), ("Mardic", "Woshuum"), strict=True))
    others = [
        replace(other, target_new=said[str(other.id).rpartition("-")[0]])
        for other in rivals(drowned, ["They say: ", "I heard it: ", "It is known: "])
    ]
    with bundled(tmp_path / "store", halvings=0) as editor:
        editor.apply([*drowned, *others])
        for fact in drowned:
            lost = editor.why(str(fact.id)).lost
            assert lost is not None and lost.name == "written" and f"{fact.id}-1" in str(lost.advice)
