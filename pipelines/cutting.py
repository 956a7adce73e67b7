"""Clips cut in child processes, several at a time: a source that crashes or hangs a decoder costs its own clip only."""

from __future__ import annotations

import os
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from curate.extract import Extracted, ExtractError, Span, extract
from curate.isolation import Child, Lost


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


class _Child(Child):
    def __init__(self, timeout: float, memory_gb: float) -> None:
        super().__init__("pipelines.cutting", timeout=timeout, memory_gb=memory_gb)

    def cut(self, job: Job) -> Result:
        try:
            made = self.ask(asdict(job))
        except Lost as lost:
            return f"{job.path}: frames {job.span.start_frame} to {job.span.end_frame} cannot be cut: {lost}"
        return made["reason"] if "reason" in made else Extracted(**made)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a child process of `Cutters` does."""
    made = cut(Job(**request | {"span": Span(**request["span"])}))
    return {"reason": made} if isinstance(made, str) else asdict(made)
