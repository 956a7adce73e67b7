"""How a network and its state are spread over the workers of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from video_model.networks.lora import kept_parameters
from video_model.tensor_files import TensorFiles, piece_of, place_of
from video_model.workers import TrainingWorker


def spread(network: nn.Module, worker: TrainingWorker, strategy: str, precision: str = "float32") -> nn.Module:
    """The network as it is called in training: itself, wrapped (ddp), or with its weights spread (fsdp).

    precision: of bfloat16, fsdp gathers the weights as such, and adds up gradients as float32; activations are autocast as
    they are without it, which keeps the noise level exact: the policy would round it with all other inputs.
    """
    if not worker.several:
        return network
    if strategy == "fsdp":
        network.to(memory_format=torch.contiguous_format)  # fully_shard takes no other
        low = torch.bfloat16 if precision == "bfloat16" else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=low and torch.float32, cast_forward_inputs=False)
        mesh = init_device_mesh(worker.device.type, (worker.world,))
        for block in network.modules():
            if isinstance(block, network.blocks):
                fully_shard(block, mesh=mesh, mp_policy=policy)
        return fully_shard(network, mesh=mesh, mp_policy=policy)
    # a batch of images leaves the temporal layers without gradients, one without first frames their convolution
    return DistributedDataParallel(network, gradient_as_bucket_view=True, find_unused_parameters=True)


@contextmanager
def gradients_stay_here(network: nn.Module) -> Iterator[None]:
    """For all parts of a step but the last: gradients add up and are not exchanged yet.

    With fsdp each worker holds those of the whole network meanwhile.
    """
    if isinstance(network, DistributedDataParallel):
        with network.no_sync():
            yield
    elif isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            network.set_requires_gradient_sync(True)
    else:
        yield


def whole(value: Tensor) -> Tensor:
    """A tensor that may be spread over the workers, as a plain one; all workers must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def read_like(files: TensorFiles, name: str, like: Tensor) -> Tensor:
    """A saved tensor, on the device of `like`, and spread as it is where it has its shape."""
    if files.shapes[name] != tuple(like.shape):
        return files.read(name)
    local = files.read(name, place_of(like)).to(like.device)
    if not isinstance(like, DTensor):
        return local
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def load_network(network: nn.Module, files: TensorFiles) -> None:
    """Put saved tensors, by name, into a network that may be spread: each worker reads what it holds. Of one with LoRA that
    is the LoRA.

    Raises KeyError for a name that is missing, RuntimeError for another shape.
    """
    with torch.no_grad():
        for name, parameter in kept_parameters(network):
            if files.shapes[name] != tuple(parameter.shape):
                raise RuntimeError(f"{name}: {list(files.shapes[name])} there, {list(parameter.shape)} here")
            piece_of(parameter).copy_(files.read(name, place_of(parameter)))


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """All that a checkpoint holds of it, by name, spread as it is: its parameters, or its LoRA."""
    return {name: parameter.detach() for name, parameter in kept_parameters(network)}
