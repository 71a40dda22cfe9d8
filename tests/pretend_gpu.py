"""A GPU to be pretended where there is none: tensors "on" it lie in memory, marked, and mixing them with others fails.

What a GPU refuses is refused: an operation on tensors of both places (numbers apart, as on a real one), and a view of a
tensor there as an array. A function mode answers for the device and sees moves and new tensors; a dispatch mode sees
every operation, those of backward passes as well. Marks are on storages, which views share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU = torch.device("cuda"), torch.device("cpu")


class _Marks:
    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}  # keeps storages, so that no other takes the place of one
        self._numbers: dict[int, Any] = {}  # what was expanded from a number, as autograd does, is of either place
        self.moving = False

    def is_number(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._numbers

    def add_number(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._numbers[storage._cdata] = storage

    def has(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._kept

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._kept[storage._cdata] = storage
        return tensor

    def copy(self, tensor: torch.Tensor, there: bool) -> torch.Tensor:
        self.moving = True
        found = tensor.detach().clone()
        self.moving = False
        return self.add(found) if there else found


def _tensors(*trees: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, torch.Tensor)]


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, marks: _Marks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._marks = marks

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._marks.moving:
            return func(*args, **(kwargs or {}))
        tensors = _tensors(args, kwargs)
        placed = [tensor for tensor in tensors if tensor.dim() and not self._marks.is_number(tensor)]
        there = [self._marks.has(tensor) for tensor in placed]
        if any(there) and not all(there) and func is not torch.ops.aten.copy_.default:
            shapes = [(tuple(tensor.shape), self._marks.has(tensor)) for tensor in placed]
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {shapes}")
        found = func(*args, **(kwargs or {}))
        for tensor in _tensors(found):
            if any(map(self._marks.has, tensors)):
                self._marks.add(tensor)
            elif tensors and not placed:
                self._marks.add_number(tensor)
        return found


class _Functions(TorchFunctionMode):
    def __init__(self, marks: _Marks) -> None:
        super().__init__()
        self._marks = marks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return GPU if self._marks.has(args[0]) else func(*args)
        if func is torch.Tensor.numpy and self._marks.has(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return self._moved(func, args, kwargs)
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if device is not None:
            kwargs["device"] = CPU
        found = func(*args, **kwargs)
        if device == GPU:
            for tensor in _tensors(found):
                self._marks.add(tensor)
        return found

    def _moved(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        named = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, torch.device | str)]
        target = CPU if func is torch.Tensor.cpu else torch.device(named[0]) if named else None
        here = self._marks.has(args[0])
        if target is None or (target == GPU) is here:
            rest = [CPU if isinstance(each, torch.device | str) else each for each in args]
            return func(*rest, **{name: CPU if name == "device" else value for name, value in kwargs.items()})
        types = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, torch.dtype)]
        with torch._C.DisableTorchFunction():
            copy = _Copy.apply(args[0], self._marks, target == GPU)  # type: ignore[no-untyped-call]
        return copy.to(types[0]) if types else copy


class _Copy(torch.autograd.Function):
    """A copy in the other place, and its gradient back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, marks: _Marks, there: bool) -> torch.Tensor:
        ctx.marks, ctx.there = marks, there
        return marks.copy(tensor, there)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.marks.copy(gradients[0], not ctx.there), None, None


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """The device, while the block runs."""
    marks = _Marks()
    with _Functions(marks), _Operations(marks):
        yield GPU
