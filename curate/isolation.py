"""Work on untrusted files in a child process, where a crash, a hang or a memory blow-up costs one request and nothing else.

The child stays for many requests and imports only what they need. It is started with this interpreter and this `sys.path`,
not by importing the caller's main module again, so it starts in a second under Ray or any script. Requests and answers are
MessagePack on a socket that only these two processes have: what a decoder that was taken over can send is data, not code.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import psutil

from curate.clip import Unit, Video

__all__ = ["Child", "Isolated", "Lost"]

LOOK_EVERY = 0.2  # seconds between looks at the child's memory
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # the pool of workers is the parallelism
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from curate.isolation import serve; serve(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])"
)


class Lost(Exception):
    """The child could not finish; the message is the plain reason."""


class Child:
    """A process that answers requests with one function, one at a time; a fresh one is started after a failure.

    module: its `answer(request: dict) -> dict` runs in the child. timeout: seconds for one request. memory_gb: most
    resident memory of the child, GB; allocations beyond it fail in the child itself (RLIMIT_DATA), and its resident size
    is watched from here.
    """

    def __init__(self, module: str, *, timeout: float = 600.0, memory_gb: float = 4.0) -> None:
        self.module, self.timeout, self.memory_gb = module, timeout, memory_gb
        self._child: subprocess.Popen | None = None
        self._pipe: Connection | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer. Raises Lost with a plain reason: a crash, too long, too much memory, or an exception there."""
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()
        try:
            self._pipe.send_bytes(pack(request))
            answer = self._wait()
        except (EOFError, OSError):
            raise Lost(self._how_it_ended()) from None
        except BaseException:
            self.close()  # lost, or the caller was interrupted: an answer still to come must not be taken for the next
            raise
        if "memory" in answer:
            self.close()
            raise Lost(f"needed more than {self.memory_gb:g} GB of memory")
        if "error" in answer:
            raise Lost(answer["error"])
        return answer["value"]

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child; the next request starts another."""
        child, pipe, self._child, self._pipe = self._child, self._pipe, None, None
        if pipe:
            pipe.close()
        if child:
            child.kill()
            child.wait()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        settings = json.dumps(sys.path), str(theirs.fileno()), str(self.memory_gb), self.module
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-c", BOOT, *settings],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**{name: "1" for name in ONE_THREAD}, **os.environ},
                start_new_session=True,  # an interrupt from the keyboard is for us to handle
            )
        self._pipe = Connection(ours.detach())

    def _wait(self) -> dict[str, Any]:
        process, end = psutil.Process(self._child.pid), time.monotonic() + self.timeout
        while not self._pipe.poll(min(LOOK_EVERY, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                raise Lost(f"took longer than {self.timeout:g} s")
            with contextlib.suppress(psutil.Error):
                if process.memory_info().rss > self.memory_gb * 1e9:
                    raise Lost(f"needed more than {self.memory_gb:g} GB of memory")
        return unpack(self._pipe.recv_bytes())

    def _how_it_ended(self) -> str:
        try:
            code = self._child.wait(10)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
            return f"the decoder crashed ({name}{hint})"
        return f"the decoding process ended unexpectedly (exit code {code})"


class Isolated(Child):
    """`plan` and `watch` of `curate`, in a child."""

    def __init__(self, *, timeout: float = 600.0, memory_gb: float = 4.0) -> None:
        super().__init__("curate.watch", timeout=timeout, memory_gb=memory_gb)

    def watch(self, unit: Unit, **arguments: Any) -> Unit:
        """`watch(unit, **arguments)`; the unit comes back, failed with a plain reason if the child was lost."""
        try:
            (found,) = self.ask({"do": "watch", "unit": unit.pack(), "arguments": arguments})["units"]
        except Lost as lost:
            return unit.fail(str(lost))
        return Unit.unpack(found)

    def frames(self, unit: Unit, **arguments: Any) -> Unit:
        """`captioner_frames(unit, **arguments)`; if the child was lost, the clips say so under `errors["frames"]`."""
        bare = replace(unit, clips=[replace(clip, values={}, errors={}) for clip in unit.clips])
        try:
            (found,) = self.ask({"do": "frames", "unit": bare.pack(), "arguments": arguments})["units"]
        except Lost as lost:
            for clip in unit.clips:
                clip.errors["frames"] = str(lost)
            return unit
        for clip, seen in zip(unit.clips, Unit.unpack(found).clips, strict=True):
            clip.frames, clip.errors = seen.frames, clip.errors | seen.errors
        return unit

    def plan(self, video: Video, **arguments: Any) -> list[Unit]:
        try:
            found = self.ask({"do": "plan", "unit": Unit(video).pack(), "arguments": arguments})["units"]
        except Lost as lost:
            return [Unit(video).fail(str(lost))]
        return [Unit.unpack(unit) for unit in found]


def pack(message: dict[str, Any]) -> bytes:
    return msgpack.packb(message, unicode_errors="surrogateescape")


def unpack(data: bytes) -> dict[str, Any]:
    return msgpack.unpackb(data, unicode_errors="surrogateescape")


# --- in the child


def serve(descriptor: int, memory_gb: float, module: str) -> None:
    """Answer requests until the parent is gone."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    limit = int(memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = importlib.import_module(module).answer
    pipe = Connection(descriptor)
    while True:
        try:
            request = unpack(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            reply = pack({"value": answer(request)})
        except MemoryError:
            reply = pack({"memory": True})
        except Exception as error:
            reply = pack({"error": f"{type(error).__name__}: {error}"})
        pipe.send_bytes(reply)


def _leave_with(parent: int) -> None:
    """End this process soon after the parent's, in the middle of a decode too."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
