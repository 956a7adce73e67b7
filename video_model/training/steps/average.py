"""The running average of what is trained."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from video_model.tensor_files import piece_of


def to_average(network: nn.Module, decay: float, share: bool = True) -> Any:
    """A network for the average of another: a copy of what is trained, beside the same frozen tensors (all, with a decay of 0).

    share: False copies these too, as a network that is then spread over the workers must have its own.
    """
    shared = [p for p in network.parameters() if share and (not p.requires_grad or decay == 0)]
    return copy.deepcopy(network, {id(parameter): parameter for parameter in shared})


class Average:
    """Exponential moving average of a network's trained weights, in a network of its own: `average.network`.

    After step n (from 0) the decay is min(decay, (1 + n) / (10 + n)), so that the start is forgotten. It is float32: a decay of
    .9999 moves a weight by 1/10000 of the difference, and bfloat16, which tells 1/256 apart, would not move at all.

    every: steps between updates, each with the product of the decays since the last: an average of fewer weights with the same
    memory. device: where it is kept between updates and uses (see `here`); None: where the network is.
    """

    def __init__(
        self, network: nn.Module, copied: nn.Module, decay: float, every: int = 1, device: torch.device | None = None
    ) -> None:
        self.network = copied.eval()
        self.decay, self.every = decay, every
        pairs = zip(copied.parameters(), network.parameters(), strict=True)
        self._pairs = [(mine, its) for mine, its in pairs if its.requires_grad and mine is not its]
        for mine, _ in self._pairs:
            mine.requires_grad_(False)
        self._home = next(network.parameters()).device
        self._device = device or self._home
        self._move(self._device)

    @torch.no_grad()
    def update(self, step: int, last: bool = False) -> None:
        """last: whatever `every` says, so that the stage's result has all of its steps."""
        if not self._pairs or ((step + 1) % self.every and not last):
            return
        first = step - step % self.every
        weight = 1 - math.prod(min(self.decay, (1 + n) / (10 + n)) for n in range(first, step + 1))
        self._move(self._device)
        if self._device == self._home:
            kept, new = [piece_of(a) for a, _ in self._pairs], [piece_of(b) for _, b in self._pairs]
            torch._foreach_lerp_(kept, new, weight)
            return
        for mine, its in self._pairs:  # one at a time: no second copy of the weights
            mine.lerp_(its.to(mine.device), weight)

    def here(self) -> Any:
        """The network, where it can be called, until the next update."""
        self._move(self._home)
        return self.network

    def _move(self, device: torch.device) -> None:
        if self._device != self._home:
            for mine, _ in self._pairs:
                mine.data = mine.data.to(device)
