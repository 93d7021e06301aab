"""Sensitivities are the Fisher information of what a weight writes, and an even size makes them the same everywhere."""

from __future__ import annotations

import pytest
import torch

from lifelong_edit.editing import sensitivity
from lifelong_edit.editing.sensitivity import ISOTROPIC, collected_sensitivities, drawn_tokens, even, read_sensitivity
from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import replaced_output
from tests.models import MODEL_TYPES, byte_level, small_model
from tests.samples import TEXT, lively_editable

TOKENS = 64


def brute(editable: EditableModel, layer: int, ids: torch.Tensor, seed: int) -> torch.Tensor:
    """S [d_out, d_out] with a gradient of its own for every token that is predicted: slow and plain."""
    generator = torch.Generator().manual_seed(seed)
    leaf: list[torch.Tensor] = []

    def begin(output: torch.Tensor) -> torch.Tensor:
        leaf.append(output.detach().requires_grad_())
        return leaf[-1]

    with replaced_output(editable.write(layer), begin):
        logs = editable.model(input_ids=ids, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
    drawn = drawn_tokens(logs.detach().float(), generator)
    gradient = sum(torch.autograd.grad(logs[t, y], leaf[0], retain_graph=True)[0] for t, y in enumerate(drawn))
    rows = gradient.flatten(0, 1)
    return rows.T.double() @ rows.double() / len(rows)


@pytest.mark.parametrize("model_type", [kind for kind in MODEL_TYPES if kind != "gemma2"])
def test_sensitivities_are_those_of_gradients_taken_one_by_one(model_type: str) -> None:
    """In nats; of two corpora each is scaled as a whole, so that both count the same and layers stay in proportion."""
    editable, texts = lively_editable(model_type, torch.float64), TEXT[:2]
    one, other, both = (
        {n: read_sensitivity(data) for n, data in collected_sensitivities(editable, (0, 1), corpora, TOKENS, 5).items()}
        for corpora in ([texts[:1]], [texts[1:]], [texts[:1], texts[1:]])
    )
    for layer in (0, 1):
        expected = brute(editable, layer, torch.tensor([editable.tokenizer(texts[0]).input_ids]), seed=5)
        assert (one[layer] - expected).norm() <= 1e-6 * expected.norm()
    sizes = [sum(own.trace() for own in corpus.values()).item() for corpus in (one, other, both)]
    assert sizes[2] == pytest.approx((sizes[0] + sizes[1]) / 2, rel=0.5) and sizes[0] != pytest.approx(sizes[1])
    assert not torch.equal(both[0] / both[0].trace(), one[0] / one[0].trace())


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.0, 2.0, -30.0, 1.0, -1.0])
    drawn = drawn_tokens(logits.expand(20_000, -1), torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.bincount(minlength=5) / len(drawn), logits.softmax(-1), atol=0.015)


def test_rows_of_any_length_count_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is no token: many short rows in a pass give what the same rows give one by one."""
    editable = lively_editable("llama", torch.float64)
    monkeypatch.setattr(sensitivity, "drawn_tokens", lambda logits, _generator: logits.argmax(-1))
    together = collected_sensitivities(editable, (0,), [TEXT[:6]], 10_000, seed=0)
    monkeypatch.setattr(sensitivity, "TOKENS_PER_PASS", 1)
    alone = collected_sensitivities(editable, (0,), [TEXT[:6]], 10_000, seed=0)
    assert torch.allclose(read_sensitivity(together[0]), read_sensitivity(alone[0]), rtol=1e-9)


def test_every_row_of_a_long_text_begins_as_a_text_does() -> None:
    """A model that was trained with a BOS reads each piece behind it, and every token once."""
    tokenizer, text = byte_level(bos=True), " ".join(TEXT)
    editable, read = EditableModel(small_model("llama", len(tokenizer)), tokenizer), list[list[int]]()

    def note(_module: object, _args: object, given: dict[str, torch.Tensor]) -> None:
        for ids, mask in zip(given["input_ids"], given["attention_mask"].bool(), strict=True):
            read.append(ids[mask].tolist())

    editable.model.register_forward_pre_hook(note, with_kwargs=True)
    collected_sensitivities(editable, (0,), [[text]], 10_000, seed=0)
    bos, *rest = tokenizer(text).input_ids
    assert len(read) > 2 and all(row[0] == bos for row in read)
    assert sorted(token for row in read for token in row[1:]) == sorted(rest)


def test_a_large_vocabulary_makes_passes_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    editable, rows = lively_editable("llama"), list[int]()
    editable.model.lm_head.register_forward_hook(lambda _module, _inputs, logits: rows.append(len(logits)))
    collected_sensitivities(editable, (0,), [TEXT[:6]], TOKENS, seed=0)
    monkeypatch.setattr(sensitivity, "LOGITS_PER_PASS", editable.context_length * editable.model.config.vocab_size)
    before, rows[:] = max(rows), []
    collected_sensitivities(editable, (0,), [TEXT[:6]], TOKENS, seed=0)
    assert max(rows) < before


def test_an_even_size_costs_the_same_in_every_direction() -> None:
    draw = torch.randn(12, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fisher = draw.T @ draw
    shape = even(fisher)
    eye = torch.eye(6, dtype=torch.float64)
    steadied = fisher + ISOTROPIC * fisher.trace() / 6 * eye
    assert torch.allclose(shape @ steadied @ shape, (1 + ISOTROPIC) * eye)
    assert torch.equal(shape.isfinite(), torch.ones_like(shape, dtype=torch.bool))
    assert torch.allclose(even(4 * eye), eye / 2)


def test_too_little_text_is_refused_and_another_file_too() -> None:
    editable = lively_editable("llama")
    with pytest.raises(RequestError, match="two tokens"):
        collected_sensitivities(editable, (0,), [[""]], TOKENS, seed=0)
    from lifelong_edit.algebra.second_moment import SecondMoment
    from lifelong_edit.editing.second_moments import moment_bytes

    with pytest.raises(StoreCorrupt):
        read_sensitivity(moment_bytes(SecondMoment(torch.eye(3, dtype=torch.float64), 3), {}))
