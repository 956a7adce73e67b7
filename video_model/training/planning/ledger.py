"""Memory that would come and go while tensors are computed with that have no numbers: on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary


class Ledger(TorchDispatchMode):
    """Within it, every allocation on the meta device and its end are written down, forward and backward.

    Operations are counted as well. Memory is that of storages, so views cost nothing, and one that the graph of a backward pass holds lives as long as it.
    The answer to a question about numbers that are not there is 0, False.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []  # number of the allocation, bytes: > 0 begun, < 0 ended
        self.flops = 0  # of products and convolutions
        self._numbers = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return {torch.bool: False}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 0)
        out = func(*args, **kwargs or {})
        if count := flop_registry.get(getattr(func, "_overloadpacket", None)):
            self.flops += count(*args, **kwargs or {}, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.watch(leaf)
        return out

    def watch(self, tensor: Tensor) -> int | None:
        """The number of its allocation, which is written down if it is a new one; None: it is on another device."""
        if tensor.device.type != "meta":
            return None
        storage = tensor.untyped_storage()
        if storage not in self._numbers:
            number, size = len(self.events), storage.nbytes()
            self._numbers[storage] = number
            self.events.append((number, size))
            weakref.finalize(storage, self.events.append, (number, -size))
        return self._numbers[storage]

    def of(self, tensors: Iterable[Tensor]) -> set[int]:
        """Numbers of the allocations that some tensors lie in."""
        return {number for tensor in tensors if (number := self.watch(tensor)) is not None}

    @property
    def now(self) -> int:
        """Bytes that live."""
        return sum(size for _, size in self.events)

    def mark(self) -> int:
        """This moment, for `peak`."""
        return len(self.events)

    def peak(self, first: int, last: int, without: Collection[int] = ()) -> int:
        """Most bytes that lived at once between two moments, without some allocations."""
        now = most = 0
        for at, (number, size) in enumerate(self.events[:last]):
            if number not in without:
                now += size
            if at >= first:
                most = max(most, now)
        return most


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
