"""Decoding in child processes: a file that crashes or hangs a decoder, or makes it swallow memory, costs one clip.

A child answers one request after the other on a socket that only the two processes have: a line of JSON and the file's
bytes go in, raw pixels of a size known beforehand or a reason come back. Nothing that a decoder which was taken over
can send is run.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import numpy as np

from video_model.data.decoding import DecodeError, Job, decode

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from video_model.data.decoders import serve; serve(int(sys.argv[2]), float(sys.argv[3]))"
)
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Decoders:
    """`workers` child processes that decode; started when first needed, and again after a failure.

    timeout: seconds for one clip. memory_gb: most memory that one child may allocate.
    """

    def __init__(self, workers: int | None = None, *, timeout: float = 60.0, memory_gb: float = 4.0) -> None:
        self.workers = max(1, workers or len(os.sched_getaffinity(0)))
        self._children = [_Child(timeout, memory_gb) for _ in range(self.workers)]
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="decoders")

    def __call__(self, jobs: Iterable[Job]) -> Iterator[np.ndarray | str]:
        """The frames [N, H, W, 3] uint8 of each job or the reason why there are none, in order; a few are worked on
        ahead."""
        ahead: deque = deque()
        try:
            for job in jobs:
                ahead.append(self._threads.submit(self._one, job))
                if len(ahead) > 2 * self.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()

    def close(self) -> None:
        """End the children; what they are at is lost."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=True)

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one(self, job: Job) -> np.ndarray | str:
        child = self._idle.get()
        try:
            return child.ask(job)
        finally:
            self._idle.put(child)


class _Child:
    def __init__(self, timeout: float, memory_gb: float) -> None:
        self.timeout, self.memory_gb = timeout, memory_gb
        self.process: subprocess.Popen | None = None
        self.pipe: Connection | None = None

    def ask(self, job: Job) -> np.ndarray | str:
        if self.process is None or self.process.poll() is not None:
            self.close()
            self._start()
        process, pipe = self.process, self.pipe
        try:
            pipe.send_bytes(json.dumps(job.request()).encode())
            pipe.send_bytes(job.data)
            if not pipe.poll(self.timeout):
                self.close()
                return f"took longer than {self.timeout:g} s to decode"
            status = pipe.recv_bytes(4096)
            if status != b"ok":
                return status.decode("utf-8", "replace")
            shape = (len(job.indices), *job.size, 3)
            frames = np.empty(shape, np.uint8)
            pipe.recv_bytes_into(memoryview(frames.reshape(-1)))
            return frames
        except (EOFError, OSError):
            return self._how_it_ended(process)
        except BaseException:
            self.close()  # an answer still to come must not be taken for the next one
            raise

    def close(self) -> None:
        process, pipe, self.process, self.pipe = self.process, self.pipe, None, None
        if process:
            process.kill()
            process.wait()
        if pipe:
            pipe.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps(sys.path), str(theirs.fileno()), str(self.memory_gb)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**{name: "1" for name in ONE_THREAD}, **os.environ},
                start_new_session=True,  # an interrupt from the keyboard is for us to handle
            )
        self.pipe = Connection(ours.detach())

    def _how_it_ended(self, process: subprocess.Popen) -> str:
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"the decoder crashed ({name})"
        return f"the decoding process ended unexpectedly (exit code {code})"


# --- in the child


def serve(descriptor: int, memory_gb: float) -> None:
    """Answer requests until the parent is gone."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    limit = int(memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = json.loads(pipe.recv_bytes())
            try:
                frames = decode(Job.of(request, pipe.recv_bytes()))
            except DecodeError as error:
                pipe.send_bytes(str(error).encode()[:4000])
                continue
            except MemoryError:
                pipe.send_bytes(f"needed more than {memory_gb:g} GB of memory to decode".encode())
                continue
            pipe.send_bytes(b"ok")
            pipe.send_bytes(memoryview(np.ascontiguousarray(frames).reshape(-1)))


def _leave_with(parent: int) -> None:
    """End this process soon after the parent's, in the middle of a decode too."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
