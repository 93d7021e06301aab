"""Model folders that are odd in one way each: what is done to a sound one, by name."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lifelong_edit.model.editable import EditableModel

Craft = Callable[[Path], object]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, TOKENIZER, TOKENIZER_CONFIG, GENERATION = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
)
DOWN = "model.layers.1.mlp.down_proj.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
VALUES: dict[str, Any] = {
    "null": None,
    "a word": "odd",
    "a lone surrogate": "\ud800",
    "minus one": -1,
    "zero": 0,
    "a fraction": 1.5,
    "huge": 10**12,
    "more than 64 bits": 10**30,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "a list": [[]],
    "an object": {"": {}},
    "true": True,
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [5_000], "tokens": ["<s>"]}},
}


def save_sound(editable: EditableModel, folder: Path) -> Path:
    """The folder of a model as `save_pretrained` writes it."""
    editable.model.save_pretrained(folder)
    editable.tokenizer.save_pretrained(folder)
    return folder


def setting(name: str, **values: Any) -> Craft:
    """Give keys of a JSON file these values."""

    def craft(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**document, **values}))

    return craft


def without(name: str, key: str) -> Craft:
    """Take a key out of a JSON file."""

    def craft(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({k: value for k, value in document.items() if k != key}))

    return craft


def holding(name: str, content: bytes) -> Craft:
    """Let a file hold these bytes."""
    return lambda folder: (folder / name).write_bytes(content)


def instead(name: str, make: Callable[[Path], object]) -> Craft:
    """Make something else in the place of a file."""

    def craft(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return craft


def cut(name: str) -> Craft:
    """Leave half of a file."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def header(text: bytes, length: int | None = None) -> Craft:
    """Let the file of weights be a header alone."""
    return holding(WEIGHTS, struct.pack("<Q", len(text) if length is None else length) + text)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Craft:
    """Change the weights."""

    def craft(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file({name: tensor.contiguous() for name, tensor in held.items()}, folder / WEIGHTS, {"format": "pt"})

    return craft


def sharded(weight_map: Any = None, **more: Any) -> Craft:
    """Put an index in the place of the weights; by default it maps all of them to the one shard that holds them."""

    def craft(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "part.safetensors")
        names = dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")
        index = {"metadata": {}, "weight_map": names if weight_map is None else weight_map, **more}
        (folder / INDEX).write_text(json.dumps(index))

    return craft


def endless(name: str) -> Craft:
    return instead(name, lambda path: path.symlink_to("/dev/zero"))


def pipe(name: str) -> Craft:
    return instead(name, os.mkfifo)


def pipe_below(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    os.mkfifo(folder / "additional_chat_templates" / "tool.jinja")


def oversized(name: str) -> Craft:
    """A file of 100 MB, of which the disk holds nothing."""
    return lambda folder: os.truncate(folder / name, 100 * 2**20)


def crowded(folder: Path) -> None:
    """Weights that are 300,000 empty tensors."""
    entries = (b'"%d": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}' % number for number in range(300_000))
    header(b"{%s}" % b",".join(entries))(folder)


KERNELS: dict[str, Craft] = {
    "attention by a kernel": setting(CONFIG, attn_implementation="kernels-community/flash-attn"),
    "attention by a kernel, under a private name": setting(CONFIG, _attn_implementation="someone/kernel@main:attend"),
    "attention by a kernel, under another name": setting(
        CONFIG, attribute_map={"harmless": "_attn_implementation"}, harmless="someone/kernel"
    ),
    "attention by a package": setting(CONFIG, attn_implementation="flash_attention_2"),
}
# Each must be refused, and the message must name this file.
REFUSED: dict[str, tuple[str, Craft]] = {
    **{name: (CONFIG, craft) for name, craft in KERNELS.items()},
    "a kernel in a nested config": (CONFIG, setting(CONFIG, text_config={"a": [{"attn_implementation": "a/kernel"}]})),
    "experts by a kernel": (CONFIG, setting(CONFIG, experts_implementation="deepgemm")),
    "kernels wanted": (CONFIG, setting(CONFIG, use_kernels=True)),
    "a map of kernels": (CONFIG, setting(CONFIG, kernel_config={"RMSNorm": "someone/kernel"})),
    "patched classes": (CONFIG, setting(CONFIG, fusion_config={"patch_embeddings": True})),
    "other weights": (CONFIG, setting(CONFIG, transformers_weights="other.safetensors")),
    "bitsandbytes": (CONFIG, setting(CONFIG, quantization_config={"quant_method": "bitsandbytes"})),
    "an unknown quantization": (CONFIG, setting(CONFIG, quantization_config={"quant_method": "odd"})),
    "an empty quantization": (CONFIG, setting(CONFIG, quantization_config={})),
    "a nested quantization": (CONFIG, setting(CONFIG, text_config={"quantization_config": {"quant_method": "gptq"}})),
    "an unknown dtype": (CONFIG, setting(CONFIG, dtype="float17")),
    "a dtype that is a function": (CONFIG, setting(CONFIG, torch_dtype="load", dtype=None)),
    "an integer dtype": (CONFIG, setting(CONFIG, dtype="int8")),
    "a method's name": (CONFIG, setting(CONFIG, get_text_config=1)),
    "an unknown type": (CONFIG, setting(CONFIG, model_type="odd")),
    "a list of types": (CONFIG, setting(CONFIG, model_type=["llama"])),
    "no heads": (CONFIG, setting(CONFIG, num_attention_heads=0)),
    "negative heads": (CONFIG, setting(CONFIG, num_attention_heads=-4, num_key_value_heads=-4)),
    "no layers": (CONFIG, setting(CONFIG, num_hidden_layers=0)),
    "no positions": (CONFIG, setting(CONFIG, max_position_embeddings=0)),
    "an epsilon that is no number": (CONFIG, setting(CONFIG, rms_norm_eps=float("nan"))),
    "an infinite epsilon": (CONFIG, setting(CONFIG, rms_norm_eps=float("inf"))),
    "a negative epsilon": (CONFIG, setting(CONFIG, rms_norm_eps=-1e6)),
    "no theta": (CONFIG, setting(CONFIG, rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": -1.0})),
    "a huge hidden size": (CONFIG, setting(CONFIG, hidden_size=10**12)),
    "a large hidden size": (CONFIG, setting(CONFIG, hidden_size=10**6)),
    "a large head": (CONFIG, setting(CONFIG, head_dim=10**9)),
    "a large rotary table": (
        CONFIG,
        setting(
            CONFIG,
            rope_parameters={"rope_type": "linear", "factor": 1.0, "rope_theta": 1e4, "partial_rotary_factor": 1e9},
        ),
    ),
    "a huge vocabulary": (CONFIG, setting(CONFIG, vocab_size=10**9)),
    "a billion layers": (CONFIG, setting(CONFIG, num_hidden_layers=10**9)),
    "a large layer of its own": (CONFIG, setting(CONFIG, per_layer_config={"1": {"intermediate_size": 10**9}})),
    "300 layers": (CONFIG, setting(CONFIG, num_hidden_layers=300)),
    "a billion labels": (CONFIG, setting(CONFIG, num_labels=10**9)),
    "a list as config": (CONFIG, holding(CONFIG, b"[]")),
    "a deep config": (CONFIG, holding(CONFIG, b"[" * 200_000)),
    "a deep object": (CONFIG, holding(CONFIG, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "config in UTF-16": (CONFIG, holding(CONFIG, '{"model_type": "llama"}'.encode("utf-16"))),
    "half a config": (CONFIG, cut(CONFIG)),
    "a pipe as config": (CONFIG, pipe(CONFIG)),
    "an endless config": (CONFIG, endless(CONFIG)),
    "an oversized config": (CONFIG, oversized(CONFIG)),
    "a pointer as config": (CONFIG, holding(CONFIG, POINTER)),
    "half the weights": (WEIGHTS, cut(WEIGHTS)),
    "no weights": (WEIGHTS, instead(WEIGHTS, lambda _: None)),
    "empty weights": (WEIGHTS, holding(WEIGHTS, b"")),
    "a folder as weights": (WEIGHTS, instead(WEIGHTS, Path.mkdir)),
    "endless weights": (WEIGHTS, endless(WEIGHTS)),
    "a pipe as weights": (WEIGHTS, pipe(WEIGHTS)),
    "a pointer as weights": (WEIGHTS, holding(WEIGHTS, POINTER)),
    "a header without end": (WEIGHTS, header(b"{}", 2**62)),
    "a deep header": (WEIGHTS, header(b"[" * 100_000)),
    "a header that overflows": (
        WEIGHTS,
        header(b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4294967296], "data_offsets": [0, 0]}}'),
    ),
    "too many tensors": (WEIGHTS, crowded),
    "float8 weights": (WEIGHTS, tensors(lambda held: held.update({DOWN: held[DOWN].to(torch.float8_e4m3fn)}))),
    "integer weights": (WEIGHTS, tensors(lambda held: held.update({DOWN: held[DOWN].to(torch.int8)}))),
    "a weight that is no number": ("", tensors(lambda held: held[DOWN][3:4, 5:6].fill_(float("nan")))),
    "a missing weight": ("", tensors(lambda held: held.pop(DOWN))),
    "a transposed weight": ("", tensors(lambda held: held.update({DOWN: held[DOWN].T}))),
    "an index of pickles": (INDEX, sharded({DOWN: "part.bin"})),
    "an index of what lies elsewhere": (INDEX, sharded({DOWN: "../part.safetensors"})),
    "an index of what is not there": (INDEX, sharded({DOWN: "part-2.safetensors"})),
    "an index of numbers": (INDEX, sharded({DOWN: 3})),
    "an index that is a list": (INDEX, sharded([DOWN])),
    "an index without metadata": (INDEX, sharded(metadata=None)),
    "a distributed checkpoint": (
        "shard-00001-model-00001-of-00001.safetensors",
        holding("shard-00001-model-00001-of-00001.safetensors", b""),
    ),
    "an adapter": ("adapter_config.json", holding("adapter_config.json", b'{"base_model_name_or_path": "gpt2"}')),
    "half a tokenizer": ("tokenizer", cut(TOKENIZER)),
    "an endless tokenizer": (TOKENIZER, endless(TOKENIZER)),
    "a pointer as tokenizer": (TOKENIZER, holding(TOKENIZER, POINTER)),
    "a tokenizer of an unknown kind": ("tokenizer", setting(TOKENIZER, model={"type": "Odd"})),
    "a tokenizer of numbers": ("tokenizer", setting(TOKENIZER, added_tokens=[3])),
    "a template of another model": ("tokenizer", setting(TOKENIZER, post_processor=TEMPLATE)),
    "a normalizer that panics": (
        "tokenizer",
        setting(TOKENIZER, normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    ),
    "a regular expression that is none": (
        "tokenizer",
        setting(TOKENIZER, normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
    ),
    "a token with a lone surrogate": ("tokenizer", setting(TOKENIZER_CONFIG, eos_token="\ud800")),
    "a token that is a number": ("tokenizer", setting(TOKENIZER_CONFIG, bos_token=3)),
    "a length that is a word": ("tokenizer", setting(TOKENIZER_CONFIG, model_max_length="long")),
    "a class that is a number": ("tokenizer", setting(TOKENIZER_CONFIG, tokenizer_class=3)),
    "a class of another package": ("tokenizer", setting(TOKENIZER_CONFIG, tokenizer_class="MistralCommonBackend")),
    "a list as tokenizer config": (TOKENIZER_CONFIG, holding(TOKENIZER_CONFIG, b"[]")),
    "a pipe beside": ("chat_template.jinja", pipe("chat_template.jinja")),
    "a pipe in a folder": ("additional_chat_templates/tool.jinja", pipe_below),
    "an odd map of tokens": ("special_tokens_map.json", holding("special_tokens_map.json", b"odd")),
    "a list for generation": (GENERATION, holding(GENERATION, b"[3]")),
}
# Each opens as the sound folder does.
HARMLESS: dict[str, Craft] = {
    "nothing": lambda folder: None,
    "settings that are off": setting(
        CONFIG, quantization_config=None, use_kernels=False, attn_implementation="eager", experts_implementation=None
    ),
    "a file for other programs": holding("notes.bin", b"\0"),
    "a link to a file": instead("README.md", lambda path: path.symlink_to(path.parent / CONFIG)),
    "shards": sharded(),
    "a model of its own code": setting(CONFIG, auto_map={"AutoModelForCausalLM": "own.Model"}),
    "a tokenizer of its own code": setting(TOKENIZER_CONFIG, auto_map=["own.Slow", "own.Fast"]),
}


def spoiled(sound: Path) -> Iterator[tuple[str, Craft]]:
    """Every key of every JSON file in a sound folder without its value and with odd ones; whole files in odd ways."""
    for name in (CONFIG, TOKENIZER_CONFIG, GENERATION, TOKENIZER):
        for key in json.loads((sound / name).read_text()):
            yield f"{name} without {key}", without(name, key)
            for what, value in VALUES.items():
                yield f"{key} of {name} is {what}", setting(name, **{key: value})
    for name in (CONFIG, TOKENIZER_CONFIG, GENERATION, TOKENIZER, WEIGHTS):
        for content in (b"", b"[]", b"3", b"null", b"{}", b"\0" * 100, b'{"\xff": 1}', POINTER):
            yield f"{name} is {content[:16]!r}", holding(name, content)
        for craft in (cut, pipe, endless, oversized):
            yield f"{name} is {craft.__name__}", craft(name)
        for target in ("nowhere", name, "/dev/null", "."):
            yield f"{name} is a link to {target}", instead(name, lambda path, target=target: path.symlink_to(target))
