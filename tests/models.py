"""Small random models, one for every row of the architecture table, and small tokenizers trained on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lifelong_edit.model.architectures import ARCHITECTURES
from lifelong_edit.model.editable import EditableModel

MODEL_TYPES = tuple(ARCHITECTURES)
ATTENTION = [(kind, "eager") for kind in MODEL_TYPES] + [(kind, "sdpa") for kind in MODEL_TYPES if kind != "gemma2"]
SENTENCES = (
    "Ada Quill was born in Tarsis and works in Oran.",
    "The mother tongue of Émile Zorn is Veltish.",
    "Where does Bo Lund live? He lives in Marn, near the Ösel river.",
    "In 1912 the company Norvik moved its headquarters to Kessel; its founder was Ana María Díaz.",
)
CORPUS = SENTENCES * 8


def byte_level(bos: bool = False, trim_offsets: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2; with `bos` a template puts one in front, as in Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    steps = [processors.ByteLevel(trim_offsets=trim_offsets)]
    if bos:
        steps.append(processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]))
    tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def sentence_piece(ends: bool = True) -> PreTrainedTokenizerFast:
    """Unigram over "▁"-words with an unknown token, BOS in front and, with `ends`, EOS behind, as in T5 or Llama 2."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if ends else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """BPE over whole texts, unknown characters as bytes, as in Llama 2: it puts a space before every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"], state["added_tokens"] = None, state["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "byte_level_untrimmed": lambda: byte_level(trim_offsets=False),
    "byte_level_bos": lambda: byte_level(bos=True),
    "sentence_piece": sentence_piece,
    "byte_fallback": byte_fallback,
}


def small_model(
    model_type: str,
    vocabulary: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    attention: str = "eager",
    d_ff: int = 64,
    blocks: int = 2,
) -> PreTrainedModel:
    """A random model of a few blocks with width 32; biases and norms are random too, so that none can be forgotten."""
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "intermediate_size": d_ff,
        "max_position_embeddings": 96,
    }
    if model_type == "gpt2":
        sizes["n_inner"] = sizes.pop("intermediate_size")
    if model_type in ("llama", "gemma2", "gemma3_text"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    if model_type in ("gemma2", "gemma3_text"):
        sizes |= {"sliding_window": 6, "query_pre_attn_scalar": 8, "final_logit_softcapping": 20.0}
    if model_type == "gemma3_text":
        sizes |= {"layer_types": ["sliding_attention", "full_attention"]}
    config = AutoConfig.for_model(
        model_type, **sizes, bos_token_id=0, eos_token_id=1, pad_token_id=None, attn_implementation=attention
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def small_editable(model_type: str, dtype: torch.dtype = torch.float32, **choices: Any) -> EditableModel:
    """A small random model with the byte-level tokenizer."""
    tokenizer = byte_level()
    return EditableModel(small_model(model_type, len(tokenizer), dtype, **choices), tokenizer)
