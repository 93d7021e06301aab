"""Touching a module inside a block: every hook and patch is gone when the block ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lifelong_edit.errors import ModelError


class Seen:
    """What a module was last given and gave back, both [B, T, d]."""

    def __init__(self) -> None:
        self._input: Tensor | None = None
        self._output: Tensor | None = None

    @property
    def input(self) -> Tensor:
        return _present(self._input)

    @property
    def output(self) -> Tensor:
        return _present(self._output)


@contextmanager
def captured(module: nn.Module) -> Iterator[Seen]:
    """Record the module's input and output, with their graph: `with captured(m) as seen: model(...); seen.output`.

    The output is what the module itself computed, before any `replaced_output` changes it.
    """
    seen = Seen()

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen._input = hidden_of(args or tuple(kwargs.values()), module)
        seen._output = hidden_of(output, module)

    handle = module.register_forward_hook(record, prepend=True, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def replaced_output(module: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Pass the module's output [B, T, d] through `edit`; what a tuple holds beside it stays."""

    def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = hidden_of(output, module)
        edited = edit(hidden)
        if edited.shape != hidden.shape:
            raise ModelError(f"The edit of an output {tuple(hidden.shape)} gave {tuple(edited.shape)}. Keep its shape.")
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let `forward` stand in for the module's own, which never runs."""
    attributes = vars(module)
    own = {name: attributes[name] for name in ("forward",) if name in attributes}
    attributes["forward"] = forward
    try:
        yield
    finally:
        del attributes["forward"]
        attributes.update(own)


@contextmanager
def replaced_input(module: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Pass the module's only input [B, T, d] through `edit`."""
    handle = module.register_forward_pre_hook(lambda _module, args: (edit(hidden_of(args, module)),))
    try:
        yield
    finally:
        handle.remove()


class _Stop(Exception):
    """Ends a forward pass whose rest nobody needs."""


@contextmanager
def stopped_at(module: nn.Module) -> Iterator[None]:
    """End the block as soon as the module has run; `ModelError` if it never does."""
    stop = _Stop()

    def halt(*_: Any) -> None:
        raise stop

    handle = module.register_forward_hook(halt)
    try:
        yield
    except _Stop as raised:
        if raised is not stop:
            raise
        stop.__traceback__ = None  # its frames hold the pass's activations
        return
    finally:
        handle.remove()
    raise ModelError(
        f"The forward pass never reached {type(module).__name__}, where it was to stop. Run the model once."
    )


def hidden_of(value: Any, module: nn.Module) -> Tensor:
    """The hidden states [B, T, d] among what a module takes or gives: a tensor, or a tuple that starts with it."""
    hidden = value[0] if isinstance(value, tuple) and value else value
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        found = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise ModelError(
            f"{type(module).__name__} passes {found} where hidden states [batch, tokens, width] are needed. "
            "This model's modules cannot be edited; report its type."
        )
    return hidden


def _present(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ModelError("The captured module did not run. Run the model inside the block.")
    return tensor
