"""A causal language model as something whose MLP output projections can be read, rewritten and resumed from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from lifelong_edit.errors import ModelError, RequestError
from lifelong_edit.facts import TextRule
from lifelong_edit.model.architectures import architecture_of
from lifelong_edit.model.folder import CONFIG, blamed_on
from lifelong_edit.model.hooks import replaced_forward, replaced_input, stopped_at
from lifelong_edit.model.loading import TRIAL, checked_tokenizer, load
from lifelong_edit.model.tokens import Texts, tokens


class EditableModel:
    """A model and its tokenizer, frozen and in evaluation mode; layers are counted from 0.

    A weight is always [d_out, d_in], whatever way the module stores it.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.architecture = architecture_of(model.config)
        self.model = model.requires_grad_(False)
        self.model.train(False)
        self.tokenizer = checked_tokenizer(tokenizer, model)
        self.texts = Texts(self.tokenizer)
        self._hooks: tuple[RemovableHandle, ...] = ()
        self._blocks = list(_submodule(model, self.architecture.blocks).children())
        self._head()
        if unheld := next((name for name, weight in model.named_parameters() if weight.is_meta), None):
            raise ModelError(f"{unheld} has no values, only a shape (PyTorch's meta device). Load the model whole.")
        for layer in range(self.layers):
            self._matrix(layer)
        self._blocks_return_tuples = self._probe()

    @classmethod
    def open(cls, folder: str | Path, dtype: torch.dtype | None = None, device: str = "cpu") -> EditableModel:
        """Load a folder of safetensors and tokenizer files; in the checkpoint's own dtype unless one is given.

        Nothing is downloaded and no code from the folder runs. Whatever is wrong with the folder, `ModelError` names
        the file and says what to do; a model whose logits are not finite is refused too.
        """
        folder = Path(folder)
        loaded = load(folder, dtype, device)
        with blamed_on(folder / CONFIG):
            editable = cls(*loaded)
            editable._try_out()
        return editable

    @property
    def layers(self) -> int:
        return len(self._blocks)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def context_length(self) -> int:
        """How many tokens the model was made for."""
        return int(self.model.config.max_position_embeddings)

    @property
    def pad_id(self) -> int:
        """A token id for places that the attention mask hides."""
        return next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), 0)

    def read_by(self, rule: TextRule) -> None:
        """Make one text of a prompt and its target by this rule from now on."""
        self.texts = Texts(self.tokenizer, rule)

    def block(self, layer: int) -> nn.Module:
        """The transformer block."""
        if not 0 <= layer < self.layers:
            raise RequestError(f"There is no layer {layer}: the model has layers 0 to {self.layers - 1}.")
        return self._blocks[layer]

    def write(self, layer: int) -> nn.Module:
        """The module that holds the edited weight: it maps keys [.., d_in] to values [.., d_out]."""
        return _submodule(self.block(layer), self.architecture.write)

    def after_write(self, layer: int) -> nn.Module | None:
        """The module a value passes on its way to the residual stream; None where it is added as it is."""
        path = self.architecture.after_write
        return _submodule(self.block(layer), path) if path else None

    def weight_name(self, layer: int) -> str:
        """The weight's name among the model's parameters."""
        self.block(layer)
        return f"{self.architecture.blocks}.{layer}.{self.architecture.write}.weight"

    def shape(self, layer: int) -> tuple[int, int]:
        """(d_out, d_in)."""
        d_out, d_in = self._matrix(layer).shape
        return d_out, d_in

    def weight(self, layer: int) -> Tensor:
        """A copy of the weight [d_out, d_in] in the live dtype."""
        return self._matrix(layer).detach().clone(memory_format=torch.contiguous_format)

    def set_weight(self, layer: int, weight: Tensor) -> None:
        """Write `weight` [d_out, d_in] into the live model, cast to its dtype; checked before anything changes."""
        self.set_weights({layer: weight})

    def set_weights(self, weights: Mapping[int, Tensor]) -> None:
        """Write several layers' weights; all are checked before the first changes.

        A layer gets a new parameter instead of new numbers in the old one, so a pass of another thread reads finished
        weights only. Hold the module, not its parameter.
        """
        cast = {layer: self.cast(layer, weight) for layer, weight in weights.items()}
        fresh = {layer: self._parameter(layer, weight) for layer, weight in cast.items()}
        for layer, parameter in fresh.items():
            old = self.write(layer).weight
            for module in [module for module in self.model.modules() if module._parameters.get("weight") is old]:
                module.weight = parameter

    def cast(self, layer: int, weight: Tensor) -> Tensor:
        """`weight` [d_out, d_in] as the live layer would hold it; `ModelError` for a wrong shape or an infinity."""
        live = self._matrix(layer)
        if weight.shape != live.shape:
            raise ModelError(
                f"The weight for layer {layer} has shape {tuple(weight.shape)}, the model's is {tuple(live.shape)} "
                "as [d_out, d_in]. Nothing was written."
            )
        cast = weight.detach().to(device=live.device, dtype=live.dtype)
        if not bool(torch.isfinite(cast).all()):
            raise ModelError(
                f"The weight for layer {layer} holds entries that are not finite as {live.dtype}. Nothing was written."
            )
        return cast

    def sharing(self, weights: Mapping[int, Tensor]) -> EditableModel:
        """Another model, without hooks, that holds these weights [d_out, d_in] and shares all its other tensors."""
        own = {layer: self.cast(layer, weight) for layer, weight in weights.items()}
        edited = {id(self.write(layer).weight) for layer in own}
        shared = {id(t): t for t in (*self.model.parameters(), *self.model.buffers()) if id(t) not in edited}
        model = copy.deepcopy(self.model, shared)
        for module in model.modules():  # hooks show a state of this model, or watch it: neither is the other's
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        other = EditableModel(model, self.tokenizer)
        other.texts = self.texts
        other._copy(own)
        return other

    def tokenized_by(self, tokenizer: PreTrainedTokenizerFast) -> EditableModel:
        """This model, with another instance of its tokenizer: two threads cannot share one that pads or truncates."""
        self.tokenizer, self.texts = tokenizer, Texts(tokenizer, self.texts.rule)
        return self

    def attach(self, hooks: Sequence[RemovableHandle]) -> None:
        """Keep forward hooks that show a state on the model; those that were kept before are removed."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = tuple(hooks)

    @contextmanager
    def rewritten(self, weights: Mapping[int, Tensor]) -> Iterator[None]:
        """Let the layers hold these weights [d_out, d_in]; the exact bits from before come back at the end."""
        new = {layer: self.cast(layer, weight) for layer, weight in weights.items()}
        before = {layer: self.weight(layer) for layer in new}
        try:
            self._copy(new)
            yield
        finally:
            self._copy(before)

    @contextmanager
    def resumed_after(self, layer: int, hidden: Tensor) -> Iterator[None]:
        """Forward passes start from `hidden` [B, T, d], the output of block `layer`: blocks 0..layer do not run.

        The rest stays the model's own code: masks, positions, later blocks, final norm, head. A cache gets keys and
        values of the later blocks only, so give each pass a fresh one (`rows.fresh_cache`).
        """
        result = (hidden,) if self._blocks_return_tuples else hidden

        def pass_over(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
            if hidden_states.shape != hidden.shape:
                raise ModelError(
                    f"A pass over {tuple(hidden_states.shape)} cannot resume from hidden states {tuple(hidden.shape)}. "
                    "Give as many token ids as hidden states."
                )
            return result

        with ExitStack() as stack:
            self.block(layer)
            for passed in range(layer + 1):
                stack.enter_context(replaced_forward(self.block(passed), pass_over))
            yield

    def head_at(self, rows: Tensor, positions: Tensor) -> AbstractContextManager[None]:
        """The head sees only the hidden states at (rows[m], positions[m]), both [M]: logits are [1, M, vocabulary]."""
        return replaced_input(self._head(), lambda hidden: hidden[rows, positions].unsqueeze(0))

    def stop_after(self, layer: int) -> AbstractContextManager[None]:
        """End the block once the edited weight of `layer` has run; nothing after it is computed."""
        return stopped_at(self.write(layer))

    @contextmanager
    def hurried(self, wanted: bool = True) -> Iterator[None]:
        """A context for gradients of short rows: bfloat16 products where `wanted`, attention by plain products.

        Only a float32 model's products are changed; where the processor is made for bfloat16 they are several times
        faster. Fused attention is made for long rows: its gradient takes longer than all else in a pass over a few
        tokens.
        """
        products = torch.autocast(self.device.type, torch.bfloat16, enabled=wanted and self.dtype == torch.float32)
        with products, sdpa_kernel(SDPBackend.MATH):
            yield

    def _parameter(self, layer: int, weight: Tensor) -> nn.Parameter:
        """A new parameter that holds `weight` [d_out, d_in] the way the layer's module stores it."""
        fresh = torch.empty_like(self._matrix(layer)).copy_(weight)
        return nn.Parameter(_oriented(self.write(layer), fresh), requires_grad=False)

    def _copy(self, weights: Mapping[int, Tensor]) -> None:
        with torch.no_grad():
            for layer, weight in weights.items():
                self._matrix(layer).copy_(weight)

    def _matrix(self, layer: int) -> Tensor:
        """The live weight as a view [d_out, d_in], oriented by the type of its module."""
        module = self.write(layer)
        if not isinstance(module, (Conv1D, nn.Linear)) or not module.weight.is_floating_point():
            raise ModelError(
                f"{self.weight_name(layer)} is in a {type(module).__name__} and holds "
                f"{getattr(getattr(module, 'weight', None), 'dtype', 'no weight')}: only unquantized Linear and Conv1D "
                "weights can be edited. Load the model in a floating-point dtype."
            )
        return _oriented(module, module.weight)

    def _head(self) -> nn.Module:
        model: Any = self.model
        head: nn.Module | None = model.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(self.model).__name__} has no language-model head. Open a causal language model.")
        return head

    def _probe(self) -> bool:
        """Whether blocks return tuples, which differs between versions of transformers: the first, run on a token."""
        returned: list[Any] = []
        note = self.block(0).register_forward_hook(lambda _module, _args, output: returned.append(output))
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        try:
            with torch.no_grad(), stopped_at(self.block(0)):
                self.model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)
        finally:
            note.remove()
        return isinstance(returned[0], tuple)

    def _try_out(self) -> None:
        """Raise `ModelError` unless a plain pass over a short text gives finite logits."""
        ids = tokens(self.tokenizer, TRIAL)[0][: self.context_length] or [0]
        model: Any = self.model
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids], device=self.device)).logits
        if not bool(torch.isfinite(logits).all()):
            raise ModelError(
                "The logits of a short text are not finite, though all weights are. Check the numbers in config.json, "
                "such as the epsilon of the norms, or open the model in another dtype."
            )


def _oriented(module: nn.Module, stored: Tensor) -> Tensor:
    """A view [d_out, d_in] of a weight as this type of module stores it."""
    return stored.T if isinstance(module, Conv1D) else stored


def _submodule(parent: nn.Module, path: str) -> nn.Module:
    try:
        return parent.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f"{type(parent).__name__} has no module {path!r}, where its type's row in ARCHITECTURES says it is. "
            "Open a causal language model, with its head."
        ) from error
