"""What devices do that the meta device does not: autocast, and attention that never writes its scores down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._pytree import tree_map

from video_model.networks.layers import META_IS

# Lists of torch's autocast (aten/src/ATen/autocast_mode.h): what runs in the low precision, and what stays in float32
LOW = {
    F.linear, torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul, torch.bmm, torch.mm, torch.addmm, torch.baddbmm,
    Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm, F.scaled_dot_product_attention,
}  # fmt: skip
FULL = {
    "cuda": {
        F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, Tensor.sum, torch.sum, Tensor.pow, torch.pow,
        torch.exp, Tensor.exp, torch.norm, Tensor.norm, F.mse_loss,
    },
    "cpu": {F.mse_loss},
}  # fmt: skip
WIDEST = {torch.cat, torch.stack}


class DeviceRules(TorchFunctionMode):
    """Tensors on the meta device behave as those of a device would, in the networks that it was applied to.

    kind: cuda or cpu. low: what autocast computes in; None: there is none. Weights that were cast are kept, as autocast
    keeps them, to the end of a call; so they are when a checkpointed block is computed again, which backward does outside of
    its network's call.
    """

    def __init__(self, kind: str, low: torch.dtype | None) -> None:
        super().__init__()
        self.kind, self.low = kind, low
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def apply(self, network: Any) -> None:
        for module in network.modules():
            if module is network or isinstance(module, getattr(network, "blocks", ())):
                module.forward = self.within(module.forward)

    def within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self in _get_current_function_mode_stack():
                return function(*args, **kwargs)
            before = META_IS.set(self.kind)
            try:  # the CPU's own autocast does nothing to these tensors, and layers ask whether it is on
                with torch.autocast("cpu", self.low, enabled=self.kind == "cpu" and self.low is not None), self:
                    return function(*args, **kwargs)
            finally:
                META_IS.reset(before)
                self._kept.clear()

        return called

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.low is not None and (func in LOW or func in WIDEST or func in FULL[self.kind]):
            to = self.low if func in LOW else torch.float32
            if func in WIDEST:
                to = torch.float32 if any(part.dtype == torch.float32 for part in args[0]) else self.low
            args, kwargs = tree_map(lambda value: self._cast(value, to), (args, kwargs))
        if func is F.scaled_dot_product_attention and args[0].device.type == "meta":
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _cast(self, value: Any, to: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == to:
            return value
        if not (value.is_leaf and value.requires_grad and to == self.low):
            return value.to(to)
        if id(value) not in self._kept:
            self._kept[id(value)] = value, value.to(to)
        return self._kept[id(value)][1]

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        """By the kernel that the device would choose: on a GPU flash where it can, else the memory-efficient one."""
        if self.kind == "cpu":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=attn_mask)[0]
        if attn_mask is None and q.dtype != torch.float32 and q.shape[-1] <= 256:
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
        if attn_mask is not None:
            attn_mask = attn_mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, q.requires_grad)[0]
