"""Clips cut in child processes, several at a time: a source that crashes or hangs a decoder costs its own clip only.

Requests and answers are MessagePack over the child's stdin and stdout, each after its length in 8 bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import msgpack

from curate.extract import Extracted, ExtractError, Span, extract

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pipelines.cutting import serve; serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[2]))"
)


@dataclass(frozen=True)
class Job:
    """One clip to cut: `extract(path, span, keyframes, **options)`."""

    clip_id: str
    path: str
    span: Span
    keyframes: list[float] | None = None
    options: dict[str, Any] = field(default_factory=dict)


Result = Extracted | str  # the bytes, or the reason why there are none
MapFn = Callable[[Iterable[Job]], Iterator[Result]]


def cut(job: Job) -> Result:
    """Cut a clip in this process. Never raises for what a source can do wrong; see `Cutters` for what it can do
    worse."""
    try:
        return extract(job.path, job.span, job.keyframes, **job.options)
    except ExtractError as error:
        return str(error)
    except MemoryError:
        return f"{job.path}: needs too much memory"


def map_here(jobs: Iterable[Job]) -> Iterator[Result]:
    """The jobs one after the other, in this process."""
    return map(cut, jobs)


class Cutters:
    """`workers` child processes. Call it with jobs: results come in the order of the jobs, a few are under way ahead.

    timeout: seconds for one clip. memory_gb: most memory that one child may allocate.
    """

    def __init__(self, workers: int | None = None, *, timeout: float = 600.0, memory_gb: float = 4.0) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self.timeout, self.memory_gb = timeout, memory_gb
        self.idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self.children = [_Child(timeout, memory_gb) for _ in range(self.workers)]
        for child in self.children:
            self.idle.put(child)

    def __enter__(self) -> Cutters:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.close()

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Result]:
        ahead: deque = deque()
        with ThreadPoolExecutor(self.workers) as threads:
            try:
                for job in jobs:
                    ahead.append(threads.submit(self._one, job))
                    if len(ahead) >= 3 * self.workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for waiting in ahead:
                    waiting.cancel()

    def _one(self, job: Job) -> Result:
        child = self.idle.get()
        try:
            return child.cut(job)
        finally:
            self.idle.put(child)


class _Child:
    def __init__(self, timeout: float, memory_gb: float) -> None:
        self.timeout, self.memory_gb = timeout, memory_gb
        self.process: subprocess.Popen | None = None

    def cut(self, job: Job) -> Result:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps(sys.path), str(self.memory_gb)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                start_new_session=True,  # an interrupt from the keyboard is for the parent to handle
            )
        late = threading.Event()
        clock = threading.Timer(self.timeout, self._stop, [late])
        clock.start()
        try:
            _send(self.process.stdin, asdict(job))
            answer = _receive(self.process.stdout)
        except OSError:
            answer = None
        finally:
            clock.cancel()
        if answer is None:
            reason = f"took longer than {self.timeout:g} s" if late.is_set() else self._how_it_ended()
            self.close()
            return f"{job.path}: frames {job.span.start_frame} to {job.span.end_frame} cannot be cut: {reason}"
        return answer["reason"] if "reason" in answer else Extracted(**answer)

    def _stop(self, late: threading.Event) -> None:
        late.set()
        self.process.kill()

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(10)
            if code < 0 and -code in set(signal.Signals):
                return f"the decoder crashed ({signal.Signals(-code).name})"
            return f"the cutting process ended (exit code {code})"
        return "the cutting process stopped answering"

    def close(self) -> None:
        process, self.process = self.process, None
        if process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()


def _send(pipe: BinaryIO, message: dict[str, Any]) -> None:
    data = msgpack.packb(message, unicode_errors="surrogateescape")
    pipe.write(len(data).to_bytes(8, "big"))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: BinaryIO) -> dict[str, Any] | None:
    """The next message; None where the other side is gone."""
    length = pipe.read(8)
    if len(length) < 8:
        return None
    size = int.from_bytes(length, "big")
    data = pipe.read(size)
    return msgpack.unpackb(data, unicode_errors="surrogateescape") if len(data) == size else None


def serve(requests: BinaryIO, answers: BinaryIO, memory_gb: float) -> None:
    """In the child: cut what is asked for, until the parent is gone."""
    limit = int(memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (message := _receive(requests)) is not None:
        job = Job(**message | {"span": Span(**message["span"])})
        try:
            made = cut(job)
        except Exception as error:  # a defect of ours: it must not pass for a crash of the decoder
            made = f"{job.path}: {type(error).__name__}: {error}"
        _send(answers, {"reason": made} if isinstance(made, str) else asdict(made))
