"""Running out of memory, told in one line: what needed it, and the keys that help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

ALLOCATORS = ("can't allocate memory", "not enough memory", "CUDA out of memory", "ALLOC_FAILED", "out of memory")
ENCODING_HELP = (
    "--resume with nothing else on the device",
    "loop.frozen_precision=bfloat16",
    "data.cache=true, which makes all latents before the network is there",
)


class OutOfMemory(Exception):
    """One line: the part that ran out, and the keys that help, with their values. It would come again, so is not retried."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of a GPU, of torch on a CPU, or of Python and NumPy had nothing left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATORS)


@contextmanager
def memory_for(what: str | Callable[[], str], *help: str) -> Iterator[None]:
    """Within it, an allocation that fails becomes OutOfMemory. what: the part; help: keys that help, e.g. "lower `a.b` (4)"."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        part = what if isinstance(what, str) else what()
        raise OutOfMemory(f"out of memory: {part}: {', or '.join(help)}") from None
