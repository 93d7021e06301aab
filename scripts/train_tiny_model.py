"""Train the bundled model, tokenizer included, from nothing: python scripts/train_tiny_model.py --out FOLDER.

A small language model trained on template sentences does not store facts where ROME (arXiv 2202.05262) finds them in
large ones: the last prompt token gathers the pieces of a name and looks it up by itself. Two devices, used in training
only, make the subject's last token the place where a subject is looked up; the model itself is a plain Llama.

1. On four rows of five, tokens after a mention of a subject cannot see the mention in the lower half of the layers, and
   see only its last token in the upper half.
2. Linear heads, thrown away afterwards, read all facts of the subject from its last token in the middle layer.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lifelong_edit.tracking.scores import argmax_rate
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.text import Document, Writer

TOKENIZER_SEEDS = range(101, 107)  # other worlds, so that the names of this one stay several tokens long
VOCABULARY, ROW, ROWS, MIDDLE = 2_048, 96, 32, 3
DEVICE_SHARE, HEAD_WEIGHT = 0.8, 0.3


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a beginning-of-text token, learnt on the texts of other worlds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = (document.text for seed in TOKENIZER_SEEDS for document in Writer(World.generate(seed), "bpe").one_pass())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]


class Packer:
    """Packs whole documents into rows and marks, for every token, its document, its mention and the mention's end."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, tokens: int, seed: int) -> None:
        self.tokenizer, self.tokens = tokenizer, tokens
        self.writer = Writer(world, f"train {seed}")
        self.entity = {name: i for i, name in enumerate(name for names in world.entities.values() for name in names)}

    def rows(self) -> Iterator[Tensor]:
        """Rows [4, ROW] of ids, document numbers, entity + 1 of the mention a token is in, and whether it ends one."""
        row: list[list[int]] = []
        spent = 0
        while spent < self.tokens:
            documents = list(self.writer.one_pass())
            encoded = self.tokenizer([d.text for d in documents], return_offsets_mapping=True)
            for number, (document, ids, offsets) in enumerate(
                zip(documents, encoded["input_ids"], encoded["offset_mapping"], strict=True), start=1
            ):
                columns = self._mark(document, ids, offsets, number)
                if len(row) + len(columns) > ROW:
                    spent += len(row)
                    yield torch.tensor(row + [[1, 0, 0, 0]] * (ROW - len(row))).T
                    row = []
                row += columns[:ROW]

    def _mark(self, document: Document, ids: list[int], offsets: list[tuple[int, int]], number: int) -> list[list[int]]:
        columns = [[token, number, 0, 0] for token in ids] + [[1, number, 0, 0]]
        for start, end, name in document.mentions:
            inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
            for i in inside:
                columns[i][2] = self.entity[name] + 1
            columns[inside[-1]][3] = 1
        return columns


def attention_masks(rows: Tensor, devices: Tensor) -> tuple[Tensor, Tensor]:
    """Boolean masks [B, 1, T, T] for the lower and the upper layers; `devices` [B] says where device 1 is on."""
    document, mention, last = rows[:, 1], rows[:, 2], rows[:, 3]
    causal = torch.ones(ROW, ROW, dtype=torch.bool).tril()
    seen = causal & (document[:, :, None] == document[:, None, :])  # [B, T, T]
    outside = (mention[:, None, :] > 0) & (mention[:, :, None] != mention[:, None, :]) & devices[:, None, None]
    lower = seen & ~outside
    upper = seen & ~(outside & (last[:, None, :] == 0))
    return lower[:, None], upper[:, None]


class Trainee(nn.Module):
    """A Llama run layer by layer with its own mask for each half, and the heads of device 2."""

    answers: Tensor

    def __init__(self, world: World) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=2 * MIDDLE,
            num_attention_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        self.model = LlamaForCausalLM(config)
        self.norm = nn.RMSNorm(256)
        relations = list(world.schema.relations.values())
        self.heads = nn.ModuleList(nn.Linear(256, len(world.objects(relation))) for relation in relations)
        self.register_buffer("answers", answer_table(world))  # [entities, relations], -1 where there is no fact

    def forward(self, rows: Tensor, devices: Tensor) -> tuple[Tensor, Tensor]:
        """Language-model loss and head loss of a batch of rows [B, 4, T]."""
        ids, inner = rows[:, 0], self.model.model
        masks = attention_masks(rows, devices)
        hidden = inner.embed_tokens(ids)
        rotary = inner.rotary_emb(hidden, torch.arange(ROW)[None])
        for index, layer in enumerate(inner.layers):
            hidden = layer(hidden, attention_mask=masks[index >= MIDDLE], position_embeddings=rotary)
            if index == MIDDLE - 1:
                middle = hidden
        logits = self.model.lm_head(inner.norm(hidden))[:, :-1]
        wanted = (rows[:, 1, 1:] > 0) & (rows[:, 1, 1:] == rows[:, 1, :-1])
        loss = F.cross_entropy(logits[wanted].float(), ids[:, 1:][wanted])
        return loss, self.head_loss(middle, rows)

    def head_loss(self, middle: Tensor, rows: Tensor) -> Tensor:
        """Cross-entropy of every fact of a subject, read at the subject's last token."""
        ends = rows[:, 3] == 1
        states = self.norm(middle[ends].float())  # [mentions, d]
        answers = self.answers[rows[:, 2][ends] - 1]  # [mentions, relations]
        losses = [
            F.cross_entropy(head(states[known]), answers[known, r], reduction="sum")
            for r, head in enumerate(self.heads)
            if (known := answers[:, r] >= 0).any()
        ]
        return torch.stack(losses).sum() / (answers >= 0).sum()


def answer_table(world: World) -> Tensor:
    """The index of the object for every (entity, relation), -1 where the world holds no such fact."""
    names = [name for kind in world.entities.values() for name in kind]
    row = {name: i for i, name in enumerate(names)}
    table = torch.full((len(names), len(world.schema.relations)), -1)
    for column, relation in enumerate(world.schema.relations.values()):
        index = {name: i for i, name in enumerate(world.objects(relation))}
        for fact in world.facts:
            if fact.relation == relation.name:
                table[row[fact.subject], column] = index[fact.object]
    return table


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz, same-shape matrices stacked into one product (fast on a CPU)."""

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float = 0.05) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in group["params"]:
            momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
            momentum.lerp_(matrix.grad, 0.05)
            by_shape.setdefault(matrix.shape, []).append(matrix)
        for shape, matrices in by_shape.items():
            stacked = torch.stack([self.state[m]["momentum"].mul(0.95).add(m.grad, alpha=0.05) for m in matrices])
            steps = orthogonalised(stacked) * (0.2 * math.sqrt(max(shape)))
            for matrix, step in zip(matrices, steps, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"])


def orthogonalised(stack: Tensor) -> Tensor:
    """The orthogonal factor of every matrix of `stack` [n, a, b], to the accuracy of five quintic iterations."""
    wide = stack.shape[1] <= stack.shape[2]
    x = (stack if wide else stack.mT).bfloat16()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    found: Tensor = (x if wide else x.mT).float()
    return found


def train(tokens: int, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The trained model in bfloat16 and its tokenizer."""
    torch.manual_seed(seed)
    world, tokenizer = World.generate(BUNDLED_SEED), train_tokenizer()
    trainee = Trainee(world)
    inner = [p for layer in trainee.model.model.layers for p in layer.parameters() if p.ndim == 2]
    ids = {id(p) for p in inner}
    others = [p for p in trainee.parameters() if id(p) not in ids]
    optimizers = [
        (Muon(inner, lr=4e-3), 4e-3),
        (torch.optim.AdamW(others, lr=3e-3, weight_decay=0.0, betas=(0.9, 0.95)), 3e-3),
    ]
    probe = recall_probe(world, seed)
    batch: list[Tensor] = []
    progress, seen, step = tqdm(total=tokens, unit="tok", unit_scale=True), 0, 0
    for row in Packer(world, tokenizer, tokens, seed).rows():
        batch.append(row)
        if len(batch) < ROWS:
            continue
        rows, batch = torch.stack(batch), []
        rate = min(1.0, (step + 1) / 50) * max(0.02, min(1.0, (1 - seen / tokens) / 0.6))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, head_loss = trainee(rows, torch.rand(ROWS) < DEVICE_SHARE)
        for optimizer, base in optimizers:
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = base * rate
        (loss + HEAD_WEIGHT * head_loss).backward()
        for optimizer, _ in optimizers:
            optimizer.step()
        count = int((rows[:, 1] > 0).sum())
        seen, step = seen + count, step + 1
        progress.update(count)
        progress.set_postfix(loss=f"{loss.item():.3f}", heads=f"{head_loss.item():.3f}", refresh=False)
        if step % 300 == 0:
            progress.write(f"{seen / 1e6:.2f}M tokens: recall {argmax_rate(trainee.model, tokenizer, probe):.3f}")
    return trainee.model.bfloat16(), tokenizer


def recall_probe(world: World, seed: int, count: int = 240) -> list[tuple[str, str]]:
    """(prompt, object) of `count` facts in templates their subjects were never trained with."""
    facts = random.Random(seed).sample(world.facts, count)
    return [(world.relation(f).split_for(f.subject)[1][0].replace("{}", f.subject), f.object) for f in facts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--tokens", type=int, default=8_500_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    model, tokenizer = train(options.tokens, options.seed)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"trained in {(time.perf_counter() - started) / 60:.1f} minutes: {options.out}")


if __name__ == "__main__":
    main()
