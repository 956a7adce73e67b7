"""The processes that work on a run together: who this one is, and what they tell each other.

What they share are numbers and short lines. No object is pickled for another worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch import distributed as dist

PATIENCE = 1800  # seconds that a worker waits for another one, at most: NCCL's and gloo's own limit
LINE = 2048  # bytes of a line that a worker tells the others


class WorkerError(Exception):
    """What one of the others ran into, or that it does not answer: its line."""


@dataclass(frozen=True)
class TrainingWorker:
    """One of `world` processes; they talk through torch.distributed's default group, which their starter set up.

    What all of them must call, and in the same order: wait, any, mean, total, told, gathered, average.
    """

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

    @property
    def several(self) -> bool:
        """Whether a network is wrapped, or spread, for its workers to be trained together."""
        return self.world > 1

    def wait(self) -> None:
        """For all the others to come here."""
        if self.world > 1:
            with _named("for all to come to the same place"):
                dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether it is true for one of them."""
        return self.total([float(flag)])[0] > 0 if self.world > 1 else flag

    def mean(self, value: Tensor) -> Tensor:
        if self.world > 1:
            with _named("for their losses"):
                dist.all_reduce(value)
            value /= self.world
        return value

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all of them."""
        if self.world == 1:
            return list(numbers)
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        found = torch.tensor(numbers, dtype=exact, device=self.device)
        with _named("for their counts"):
            dist.all_reduce(found)
        return found.tolist()

    def told(self, line: str) -> list[str]:
        """The line of each worker, by rank; cut to some 2,000 bytes."""
        if self.world == 1:
            return [line]
        data = line.encode("utf-8", "replace")[: LINE - 8]
        mine = torch.zeros(LINE, dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else mine[:0]
        parts = [torch.empty(LINE, dtype=torch.uint8, device=self.device) for _ in range(self.world)]
        with _named("for what they say"):
            dist.all_gather(parts, mine.to(self.device))
        return [bytes(part.cpu().tolist()).rstrip(b"\0").decode("utf-8", "replace") for part in parts]

    def agree(self, error: Exception | None) -> None:
        """Raise this worker's error; or, where another one has one, WorkerError with its line. Nobody waits for the lost."""
        lines = self.told(f"{error}" if error else "") if self.any(error is not None) else []
        if error is not None:
            raise error
        for rank, line in enumerate(lines):
            if line:
                raise WorkerError(f"{line} (worker {rank})")

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over the workers, in one exchange."""
        if self.world == 1:
            return list(tensors)
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        with _named("for their gradients"):
            dist.all_reduce(flat)
        flat /= self.world
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def as_first(self, tensors: Sequence[Tensor]) -> None:
        """Give these tensors the first worker's values, in place."""
        if self.world > 1:
            with _named("for the first one's weights"):
                for tensor in tensors:
                    dist.broadcast(tensor.data, 0)

    def from_first(self, tensor: Tensor) -> Tensor:
        """The first worker's tensor, whatever this one has; on the CPU."""
        if self.world == 1:
            return tensor
        shape = [int(size) for size in self.told(" ".join(map(str, tensor.shape)))[0].split()]
        sent = (tensor if self.first else torch.empty(shape, dtype=tensor.dtype)).to(self.device)
        self.as_first([sent])
        return sent.cpu()

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of each worker, by rank, on the CPU; they may differ in their first size."""
        if self.world == 1:
            return [tensor]
        counts = [int(line) for line in self.told(str(len(tensor)))]
        mine = torch.zeros(max(counts), *tensor.shape[1:], dtype=tensor.dtype)
        mine[: len(tensor)] = tensor
        parts = [torch.empty_like(mine, device=self.device) for _ in counts]
        with _named("for what they have read"):
            dist.all_gather(parts, mine.to(self.device))
        return [part[:count].cpu() for part, count in zip(parts, counts, strict=True)]

    def share(self, rows: int) -> tuple[slice, float]:
        """This worker's rows of so many, and what the mean of a loss over them is to be multiplied with, so that the mean
        over the workers is that over all rows. Never empty: where there are fewer rows than workers, some weigh nothing."""
        first, last = (rows * at // self.world for at in (self.rank, self.rank + 1))
        if first == last:
            return slice(0, 1), 0.0
        return slice(first, last), (last - first) * self.world / rows


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


@contextmanager
def _named(what: str) -> Iterator[None]:
    """A lost or silent worker as one line, in place of what the transport says of it."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's errors, of all kinds
        if isinstance(error, torch.OutOfMemoryError):
            raise
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise WorkerError(
            f"another worker was lost, or silent for {PATIENCE // 60} minutes, while this one waited {what} ({why}): "
            "see what it says, then use --resume"
        ) from None
