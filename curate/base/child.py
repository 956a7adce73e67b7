"""Work on untrusted data in a child process, where a crash, a hang or a memory blow-up costs one request only.

The child serves many requests and imports only what they need. It is started with this interpreter and this `sys.path`,
not by importing the caller's main module again, so it starts in a second under Ray or any script. Requests and answers are
MessagePack on a private socket: a compromised decoder can send data, not code.
"""

from __future__ import annotations

import contextlib
import errno
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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import msgpack
import psutil

__all__ = ["Child", "Lost", "NotStarted", "in_order", "pack", "silent_stderr", "unpack"]

Item, Result = TypeVar("Item"), TypeVar("Found")

AHEAD = 16  # requests of `ask_each` that are sent before they are answered: together far less than a socket holds
POLL_SECONDS = 0.2  # between checks of the child's memory
START_SECONDS = 120.0  # time limit of the child's imports; on an idle machine they take a second
START_RETRY_SECONDS = 0.5, 2.0  # before each retry of a start that failed
MIN_FREE_BYTES = 64 << 20  # beside the imports; less cannot decode even a small picture
STARVED_SHARE = 0.25  # of the time limit: a runnable child with less CPU time than this was starved
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)  # parallelism comes from the pool of workers
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from curate.base.child import serve; serve(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])"
)


KILLED, LATE, START, CRASH, MEMORY, TIME, RAISED = "killed", "late", "start", "crash", "memory", "time", "raised"
# detected elsewhere: a worker died, the file was modified, or this machine does not see what another does
WORKER, CHANGED, UNSEEN = "worker", "changed", "unseen"
SUSPECT = {CRASH, MEMORY, TIME, WORKER}  # may be caused by the request: confirmed if a second process ends the same way
EXTERNAL_SIGNALS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU}
RESOURCE_ERRNOS = {
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EDQUOT,
}  # out of a machine's resource, not the file's fault


class Lost(Exception):
    """The child could not finish; the message is the plain reason.

    kind: KILLED (from outside, e.g. the machine ran out of memory), LATE (stopped, starved, or waiting for a disk or a store) and
    START are not the request's fault. CRASH, MEMORY and TIME may be. RAISED: the function raised.
    """

    def __init__(self, reason: str, kind: str = RAISED) -> None:
        super().__init__(reason)
        self.kind = kind


class NotStarted(Lost):
    """No child can be started on this machine, or not within its memory limit: no request can be answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, START)


class Child:
    """A process that answers requests with one function, one at a time; a fresh one is started after a failure.

    module: its `answer(request: dict) -> dict` runs in the child; a memoryview in the dict arrives as a bytearray, with
    fewer copies. timeout: seconds for one request. memory_gb: limit of the child's resident memory, GB; allocations
    beyond it fail in the child (RLIMIT_DATA), and its resident size is polled from here. name, setting: the child, and the
    config key of memory_gb, for error messages.
    """

    def __init__(
        self,
        module: str,
        *,
        timeout: float = 600.0,
        memory_gb: float = 4.0,
        name: str = "decoder",
        setting: str | None = None,
    ) -> None:
        self.module, self.timeout, self.memory_gb = module, timeout, memory_gb
        self.name, self.setting = name, setting
        self._child: subprocess.Popen | None = None
        self._pipe: Connection | None = None

    def ask(
        self, request: dict[str, Any], timeout: float | None = None, max_bytes: int | None = None
    ) -> dict[str, Any]:
        """The answer. timeout: seconds for this request, None: the child's. max_bytes: limit of the answer's size.

        Raises Lost: a crash, a limit exceeded, or an exception in the child; NotStarted.
        """
        self._begin()
        try:
            self._pipe.send_bytes(pack(request))
            return self._answer(request, self.timeout if timeout is None else timeout, max_bytes)
        except (EOFError, OSError):
            raise self._exit_loss() from None

    def ask_each(self, requests: Sequence[tuple[dict[str, Any], float]]) -> list[dict[str, Any] | Lost]:
        """The answer to each of many small requests, or its loss, which costs the others nothing.

        requests: with the seconds for each. They are sent ahead, so that the child never waits for the next one. Raises
        NotStarted.
        """
        found: list[dict[str, Any] | Lost] = []
        while len(found) < len(requests):
            self._begin()
            sent = len(found)
            try:
                while len(found) < len(requests):
                    for request, _ in requests[sent : len(found) + AHEAD]:
                        self._pipe.send_bytes(pack(request))
                        sent += 1
                    try:
                        found.append(self._answer(*requests[len(found)]))
                    except Lost as lost:
                        found.append(lost)
                        if self._child is None:  # the requests after it went with the child
                            break
            except (EOFError, OSError):
                found.append(self._exit_loss())
        return found

    def _begin(self) -> None:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()

    def waits_for(self, request: dict[str, Any]) -> str | None:
        """What a request waits for that is not of this machine; a child that idles at its time limit waited for that."""
        return None

    def _answer(self, request: dict[str, Any], timeout: float, max_bytes: int | None = None) -> dict[str, Any]:
        try:
            answer = self._wait(timeout, max_bytes, self.waits_for(request))
            raw = {name: self._raw(size, max_bytes) for name, size in answer.get("raw", {}).items()}
        except (EOFError, OSError):
            raise
        except BaseException:
            self.close()  # a late answer must not be taken for that of the next request
            raise
        if "memory" in answer:
            self.close()
            raise self._memory_loss()
        if "error" in answer:
            raise Lost(answer["error"], answer["kind"])
        return answer["value"] | raw

    @property
    def pid(self) -> int | None:
        """Process id of the child; None before the first request."""
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
        """Start a child and wait until it reports ready. Raises NotStarted after a few tries."""
        for pause in (*START_RETRY_SECONDS, None):
            try:
                self._spawn()
                reply = self._wait(START_SECONDS)
                if "ready" in reply:
                    return
                why = reply["error"]
            except (EOFError, ConnectionError):
                why = str(self._exit_loss())
            except (OSError, Lost) as error:  # OSError: no process, or no socket, can be made
                too_much = getattr(error, "kind", None) == MEMORY
                why = "its libraries take more" if too_much else getattr(error, "strerror", None) or str(error)
            except BaseException:
                self.close()
                raise
            self.close()
            if pause is not None:
                time.sleep(pause)
        more = f"raise {self.setting}, or " if self.setting else ""
        raise NotStarted(
            f"the {self.name}'s process cannot start within its {self.memory_gb:g} GB of memory ({why}): "
            f"{more}free memory and processes of the machine"
        )

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self._pipe = Connection(ours.detach())
        settings = json.dumps(sys.path), str(theirs.fileno()), str(self.memory_gb), self.module
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-c", BOOT, *settings],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**{name: "1" for name in THREAD_VARIABLES}, **os.environ},
                start_new_session=True,  # this process handles Ctrl-C
            )

    def _wait(self, timeout: float, max_bytes: int | None = None, waits_for: str | None = None) -> dict[str, Any]:
        process, end = psutil.Process(self._child.pid), time.monotonic() + timeout
        before = _used(process) if waits_for else 0.0
        while not self._pipe.poll(min(POLL_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                raise _timeout_loss(process, timeout, before, waits_for)
            with contextlib.suppress(psutil.Error):
                if process.memory_info().rss > self.memory_gb * 1e9:
                    raise self._memory_loss()
        try:
            return unpack(self._pipe.recv_bytes(max_bytes))
        except OSError:
            if self._pipe.readable:
                raise
            raise self._size_loss(max_bytes) from None

    def _raw(self, size: int, max_bytes: int | None) -> bytearray:
        if max_bytes is not None and size > max_bytes:
            raise self._size_loss(max_bytes)
        part = bytearray(size)
        self._pipe.recv_bytes_into(part)
        return part

    def _size_loss(self, max_bytes: int) -> Lost:
        return Lost(f"the {self.name} answered with more than {max_bytes} bytes", CRASH)

    def _memory_loss(self) -> Lost:
        setting = f" ({self.setting})" if self.setting else ""
        return Lost(f"needs more than {self.memory_gb:g} GB of memory{setting}", MEMORY)

    def _exit_loss(self) -> Lost:
        try:
            code = self._child.wait(10)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code is None or code >= 0:
            return Lost(f"the {self.name}'s process ended unexpectedly (exit code {code})", CRASH)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if -code in EXTERNAL_SIGNALS:
            hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
            return Lost(f"the {self.name}'s process was killed from outside ({name}{hint})", KILLED)
        return Lost(f"the {self.name} crashed ({name})", CRASH)


def _used(process: psutil.Process) -> float:
    """Seconds of the processor that a process has had; 0 where it is gone."""
    with contextlib.suppress(psutil.Error):
        return sum(process.cpu_times()[:2])
    return 0.0


def _timeout_loss(process: psutil.Process, timeout: float, before: float, waits_for: str | None) -> Lost:
    """LATE where the machine or a store is to blame: the child was stopped, waits for a disk or for the store, or is runnable
    but gets no CPU; else TIME. before: what it had used of the processor when it was asked."""
    reason = f"took longer than {timeout:g} s"
    with contextlib.suppress(psutil.Error):
        state, used = process.status(), _used(process)
        if state in (psutil.STATUS_DISK_SLEEP, psutil.STATUS_STOPPED):
            was = "stopped" if state == psutil.STATUS_STOPPED else "waiting for the disk"
            return Lost(f"{reason}: the process was {was}", LATE)
        if state == psutil.STATUS_RUNNING and used < STARVED_SHARE * timeout:
            return Lost(f"{reason}, but was given the processor for {used:.1f} s only: the machine is overloaded", LATE)
        if waits_for and used - before < STARVED_SHARE * timeout:
            return Lost(f"{reason}: it waited for {waits_for}", LATE)
    return Lost(reason, TIME)


def in_order(threads: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """`work(item)` of each item, in their order; up to `ahead` are started before they are consumed."""
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(threads.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def pack(message: dict[str, Any]) -> bytes:
    return msgpack.packb(message, unicode_errors="surrogateescape")


def unpack(data: bytes) -> dict[str, Any]:
    return msgpack.unpackb(data, unicode_errors="surrogateescape")


# --- in the child


def serve(descriptor: int, memory_gb: float, module: str) -> None:
    """Report that this process is ready, or why not; then answer requests until the parent exits."""
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    pipe = Connection(descriptor)
    limit, most = int(memory_gb * 1e9), resource.getrlimit(resource.RLIMIT_DATA)[1]
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with silent_stderr():  # libraries print pages on a failed allocation; the parent reports one line
            answer = importlib.import_module(module).answer
            resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
            bytearray(MIN_FREE_BYTES)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    except Exception as error:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # sending the reason needs memory too
        reason = str(error).rpartition(": ")[2]  # without the library's path
        pipe.send_bytes(pack({"error": f"{type(error).__name__}: {reason}".removesuffix(": ")[:300]}))
        return
    pipe.send_bytes(pack({"ready": True}))
    while True:
        try:
            request = unpack(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            found = answer(request)
            raw = {name: part for name, part in found.items() if isinstance(part, memoryview)}
            sizes = {name: part.nbytes for name, part in raw.items()}
            reply = pack({"value": {name: part for name, part in found.items() if name not in raw}, "raw": sizes})
        except MemoryError:
            reply, raw = pack({"memory": True}), {}
        except Exception as error:
            kind = LATE if getattr(error, "errno", None) in RESOURCE_ERRNOS else RAISED
            reply, raw = pack({"error": f"{type(error).__name__}: {error}", "kind": kind}), {}
        try:
            for part in (reply, *raw.values()):
                pipe.send_bytes(part)
        except OSError:  # the parent is gone
            return


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard standard error meanwhile, also that of native code."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _exit_with_parent(parent: int) -> None:
    """Exit within a second of the parent, even during a decode."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
