"""A device that is not there: what a graphics card would refuse is refused, in any build of torch.

An `Elsewhere` says that it lies on the device "meta" and holds a tensor on the CPU, with which all is computed. An
operation that mixes it with a tensor on the CPU raises `Mixed`, unless the latter has no dimensions or is an index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.algebra.problems import assert_same

DEVICE, CPU = torch.device("meta"), torch.device("cpu")
INDEXED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}


class Mixed(RuntimeError):
    """An operation was given tensors that lie on different devices."""


class Elsewhere(Tensor):
    """A tensor that says it lies on `DEVICE`; `inner` is on the CPU. Use it `with place()`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, *_call: Any) -> Any:
        raise Mixed("a tensor elsewhere is computed with where there is no such place")


def elsewhere(value: Any) -> Any:
    """A tensor moved to `DEVICE`; anything else as it is."""
    return Elsewhere(value) if isinstance(value, Tensor) and not isinstance(value, Elsewhere) else value


@contextmanager
def place() -> Iterator[None]:
    """In this block there is such a place: tensors are made there, moved there and computed with."""
    with _Kernels(), _Python():
        yield


def assert_computed_there(here: Any, there: Any) -> None:
    """The tensors in a result lie elsewhere, and all of it equals what was computed on the CPU."""
    one, other = list(_parts(here)), list(_parts(there))
    assert len(one) == len(other) > 0
    for mine, theirs in zip(one, other, strict=True):
        if isinstance(mine, Tensor):
            assert isinstance(theirs, Elsewhere)
            assert_same(theirs.inner.double().nan_to_num(7.0), mine.double().nan_to_num(7.0))
        else:
            assert theirs == (pytest.approx(mine, rel=1e-9, nan_ok=True) if isinstance(mine, float) else mine)


def _parts(value: Any) -> Iterator[Any]:
    """The tensors, numbers and texts in a result."""
    if is_dataclass(value):
        for own in fields(value):
            yield from _parts(getattr(value, own.name))
    elif isinstance(value, (list, tuple, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _parts(one)
    else:
        yield value


class _Kernels(TorchDispatchMode):
    """Runs every kernel on the inner tensors; what it gives lies where it was asked for, or where its arguments lie."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = any(isinstance(tensor, Elsewhere) for tensor in given)
        compared = args[:1] if function.overloadpacket in INDEXED else given
        mixed = [tensor for tensor in compared if not isinstance(tensor, Elsewhere) and tensor.dim()]
        if there and mixed:
            raise Mixed(f"{function} of a tensor elsewhere and one on the CPU of shape {list(mixed[0].shape)}")
        result = function(*tree_map(_here, args), **tree_map(_here, kwargs))
        if function._schema.is_mutable:
            return args[0]
        return tree_map(elsewhere, result) if kwargs.get("device", DEVICE if there else CPU) == DEVICE else result


class _Python(TorchFunctionMode):
    """What is done before any kernel: values are listed, and lists and numbers become tensors."""

    def __torch_function__(self, function: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.tolist:
            return _here(args[0]).tolist()
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return elsewhere(function(*tree_map(_here, args), **{**kwargs, "device": CPU}))
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Elsewhere):
            index = tree_map(_indices, args[1], is_leaf=_listed)
            return function(args[0], index, *(_written(value, args[0]) for value in args[2:]))
        return function(*args, **kwargs)


def _here(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else CPU if value == DEVICE else value


def _listed(value: Any) -> bool:
    return isinstance(value, (list, range))


def _indices(value: Any) -> Any:
    return Elsewhere(torch.tensor(list(value))) if _listed(value) else value


def _written(value: Any, into: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else Elsewhere(torch.tensor(value, dtype=into.dtype))
