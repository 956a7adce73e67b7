"""Decoding in a child process, where a crash, a hang or a memory blow-up costs one unit and nothing else.

The child stays for many units and imports only what the pass needs. It is started with this interpreter and this
`sys.path`, not by importing the caller's main module again, so it starts in a second under Ray or any script. Units go
to it and come back through a pipe that only these two processes have.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import psutil

from curate.clip import Unit, Video

__all__ = ["Isolated"]

LOOK_EVERY = 0.2  # seconds between looks at the child's memory
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # the pool of workers is the parallelism
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from curate.isolation import serve; serve(int(sys.argv[2]), float(sys.argv[3]))"
)


class Lost(Exception):
    """The child could not finish; the message is the plain reason."""


class Isolated:
    """Runs `plan` and `watch` in a child process, one call at a time, and starts a fresh one after a failure.

    timeout: seconds for one call. memory_gb: most resident memory of the child, GB; allocations beyond it fail in the
    child itself (RLIMIT_DATA), and its resident size is watched from here.
    """

    def __init__(self, *, timeout: float = 600.0, memory_gb: float = 4.0) -> None:
        self.timeout, self.memory_gb = timeout, memory_gb
        self._child: subprocess.Popen | None = None
        self._pipe: Connection | None = None

    def __call__(self, function: str, unit: Unit, **arguments: Any) -> Unit:
        """`watch(unit, **arguments)`; the unit comes back, failed with a plain reason if the child was lost."""
        try:
            return self._run(function, unit, arguments)
        except Lost as lost:
            return unit.fail(str(lost))

    def plan(self, video: Video, **arguments: Any) -> list[Unit]:
        try:
            return self._run("plan", video, arguments)
        except Lost as lost:
            return [Unit(video).fail(str(lost))]

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child; the next call starts another."""
        child, pipe, self._child, self._pipe = self._child, self._pipe, None, None
        if pipe:
            pipe.close()
        if child:
            child.kill()
            child.wait()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _run(self, function: str, subject: Any, arguments: dict[str, Any]) -> Any:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()
        try:
            self._pipe.send((function, subject, arguments))
            answer, value = self._wait()
        except (EOFError, OSError):
            raise Lost(self._how_it_ended()) from None
        except BaseException:
            self.close()  # lost, or the caller was interrupted: an answer still to come must not be taken for the next
            raise
        if answer == "memory":
            self.close()
            raise Lost(f"needed more than {self.memory_gb:g} GB of memory")
        if answer == "error":
            raise Lost(value)
        return value

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps(sys.path), str(theirs.fileno()), str(self.memory_gb)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**{name: "1" for name in ONE_THREAD}, **os.environ},
                start_new_session=True,  # an interrupt from the keyboard is for us to handle
            )
        self._pipe = Connection(ours.detach())

    def _wait(self) -> tuple[str, Any]:
        process, end = psutil.Process(self._child.pid), time.monotonic() + self.timeout
        while not self._pipe.poll(min(LOOK_EVERY, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                raise Lost(f"took longer than {self.timeout:g} s")
            with contextlib.suppress(psutil.Error):
                if process.memory_info().rss > self.memory_gb * 1e9:
                    raise Lost(f"needed more than {self.memory_gb:g} GB of memory")
        return self._pipe.recv()

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


# --- in the child


def serve(descriptor: int, memory_gb: float) -> None:
    """Answer calls until the parent is gone."""
    parent = os.getppid()
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    limit = int(memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from curate.video import plan
    from curate.watch import watch

    functions = {"plan": plan, "watch": watch}
    pipe = Connection(descriptor)
    while True:
        try:
            function, subject, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = "ok", functions[function](subject, **arguments)
        except MemoryError:
            answer = "memory", None
        except Exception as error:
            answer = "error", f"{type(error).__name__}: {error}"
        pipe.send(answer)


def _leave_with(parent: int) -> None:
    """End this process soon after the parent's, in the middle of a decode too."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
