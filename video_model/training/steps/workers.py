"""The processes that train together: who this one is, and how a network and its state are spread over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class TrainingWorker:
    """One of `world` processes; they talk through torch.distributed's default group, which their starter set up."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def here(cls) -> TrainingWorker:
        """This process: its place in the default group if there is one, and its GPU if it has one."""
        grouped = dist.is_available() and dist.is_initialized()
        local = int(os.environ.get("LOCAL_RANK", 0))
        device = torch.device("cuda", local % torch.cuda.device_count()) if torch.cuda.is_available() else "cpu"
        return (
            cls(dist.get_rank(), dist.get_world_size(), torch.device(device))
            if grouped
            else cls(0, 1, torch.device(device))
        )

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """For all the others to come here."""
        if self.world > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether it is true for one of them."""
        if self.world == 1:
            return flag
        found = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def mean(self, value: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value


@contextmanager
def first_goes_ahead(worker: TrainingWorker) -> Iterator[None]:
    """The first worker runs the block, then the others: what it left on the disk is there for them."""
    if not worker.first:
        worker.wait()
    try:
        yield
    finally:
        if worker.first:
            worker.wait()


def spread(network: nn.Module, worker: TrainingWorker, strategy: str) -> nn.Module:
    """The network as it is called in training: itself, wrapped (ddp), or with its weights spread (fsdp)."""
    if worker.world == 1:
        return network
    if strategy == "fsdp":
        network.to(memory_format=torch.contiguous_format)  # fully_shard takes no other
        for block in network.modules():
            if isinstance(block, network.blocks):
                fully_shard(block)
        return fully_shard(network)
    # a batch of images leaves the temporal layers without gradients, one without first frames their convolution
    return DistributedDataParallel(network, gradient_as_bucket_view=True, find_unused_parameters=True)


def gradients_stay_here(network: nn.Module) -> object:
    """A context for all parts of a step but the last: gradients add up and are not exchanged yet."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def whole(value: Tensor) -> Tensor:
    """A tensor that may be spread over the workers, as a plain one; all workers must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def spread_like(value: Tensor, like: Tensor) -> Tensor:
    """A plain tensor, spread as `like` is."""
    value = value.to(like.device, like.dtype) if value.ndim else value
    return (
        distribute_tensor(value, like.device_mesh, like.placements)
        if isinstance(like, DTensor) and value.ndim
        else value
    )


def mine(value: Tensor) -> Tensor:
    """The part of a tensor that this worker holds."""
    return value.to_local() if isinstance(value, DTensor) else value


def load_whole(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put plain tensors, by name, into a network that may be spread. Raises KeyError for a name that is missing."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            mine(parameter).copy_(mine(spread_like(tensors[name], parameter)))


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """All its parameters by name, as plain tensors."""
    return {name: whole(parameter.detach()) for name, parameter in network.named_parameters()}
