"""torch.compile of a network, whole or by its blocks."""

from __future__ import annotations

from typing import Any

import torch

from video_model.errors import RunError

VARIANTS = 1024  # of one function: a UNet has some 20 shapes of layers, each once for every size of clips


def compiled(network: Any, how: bool | str, backend: str = "inductor") -> Any:
    """The network as it is called. `blocks`: each of its `blocks` by itself, in place, and those that are alike once.

    A block is a tenth of the work of a whole network to compile, is whole under checkpointing and fsdp, and there is nothing
    between blocks that gains by it.
    """
    if how != "blocks":
        return torch.compile(network, backend=backend) if how else network
    blocks = [module for module in network.modules() if isinstance(module, network.blocks)]
    if not blocks:
        raise RunError("loop.compile: this network names no blocks to compile: set it to true or false")
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, VARIANTS)
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, VARIANTS)
    for block in blocks:
        # Channels differ between blocks; taken as dynamic, all would run slower code
        block.forward = torch.compile(block.forward, dynamic=False, backend=backend)
    return network
