"""What makes the bundled model look subjects up at their last token: the training's masks, rows and optimiser."""

from __future__ import annotations

import torch

from lifelong_edit.model.loading import load
from lifelong_edit.world.generator import World
from tests.world.test_tiny_world import FOLDER
from train_tiny_model import ROW, Packer, attention_masks, orthogonalised


def row() -> torch.Tensor:
    """One row [1, 4, ROW]: document 1 with a mention at tokens 2 to 4, document 2 from token 8 on."""
    columns = torch.zeros(4, ROW, dtype=torch.long)
    columns[1, :8], columns[1, 8:] = 1, 2
    columns[2, 2:5], columns[3, 4] = 7, 1
    return columns[None]


def test_without_the_device_a_token_sees_its_document_up_to_itself() -> None:
    for mask in attention_masks(row(), torch.tensor([False])):
        assert mask[0, 0, 7].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
        assert mask[0, 0, 9].nonzero().flatten().tolist() == [8, 9]


def test_behind_a_mention_lower_layers_see_none_of_it_and_upper_layers_its_last_token() -> None:
    lower, upper = attention_masks(row(), torch.tensor([True]))
    assert lower[0, 0, 7].nonzero().flatten().tolist() == [0, 1, 5, 6, 7]
    assert upper[0, 0, 7].nonzero().flatten().tolist() == [0, 1, 4, 5, 6, 7]
    for mask in (lower, upper):
        assert mask[0, 0, 4].nonzero().flatten().tolist() == [0, 1, 2, 3, 4], "a mention sees itself"


def test_rows_hold_whole_documents_and_mark_the_end_of_every_mention() -> None:
    _, tokenizer = load(FOLDER, None, "cpu")
    packer = Packer(World.generate(0), tokenizer, tokens=1_000, seed=0)
    names = {number + 1: name for name, number in packer.entity.items()}
    rows = list(packer.rows())
    assert rows and sum(int((one[1] > 0).sum()) for one in rows) >= 1_000
    for one in rows:
        for end in one[3].nonzero().flatten().tolist():
            mention, start = int(one[2, end]), end
            while one[2, start - 1] == mention:
                start -= 1
            assert tokenizer.decode(one[0, start : end + 1]).strip() == names[mention]


def test_the_optimisers_steps_are_nearly_orthogonal() -> None:
    stack = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    for matrices in (stack, stack.mT):
        values = torch.linalg.svdvals(orthogonalised(matrices))
        assert values.min() > 0.6 and values.max() < 1.3
