"""Work on untrusted data in a child process, where a crash, a hang or a memory blow-up costs one request and nothing else.

The child stays for many requests and imports only what they need. It is started with this interpreter and this `sys.path`,
not by importing the caller's main module again, so it starts in a second under Ray or any script. Requests and answers are
MessagePack on a socket that only these two processes have: what a decoder that was taken over can send is data, not code.
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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import msgpack
import psutil

__all__ = ["Child", "Lost", "NotStarted", "in_order", "pack", "silent_stderr", "unpack"]

Item, Found = TypeVar("Item"), TypeVar("Found")

LOOK_EVERY = 0.2  # seconds between looks at the child's memory
START_SECONDS = 120.0  # for a child to import what it needs; a second on a calm machine
START_PAUSES = 0.5, 2.0  # seconds before another child is started where one did not get ready
LEAST_ROOM = 64 << 20  # bytes beside what is imported, without which not even a small picture is decoded
STARVED = 0.25  # of the time limit: a child that wants to compute and was let for less is not to blame
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # the pool of workers is the parallelism
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from curate.base.child import serve; serve(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])"
)


KILLED, LATE, START, CRASH, MEMORY, TIME, RAISED = "killed", "late", "start", "crash", "memory", "time", "raised"
WORKER, CHANGED = "worker", "changed"  # losses that are noticed elsewhere: of a whole worker, of the file that was read
SUSPECT = {CRASH, MEMORY, TIME, WORKER}  # may be the request's doing: a second process that ends alike tells
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU}
NO_ROOM = {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT}  # a machine's, no file's


class Lost(Exception):
    """The child could not finish; the message is the plain reason.

    kind: KILLED (from outside, as by a machine without memory), LATE (it was stopped, starved, or waited for a disk) and
    START say nothing of the request. CRASH, MEMORY and TIME may be its doing. RAISED: the function raised.
    """

    def __init__(self, reason: str, kind: str = RAISED) -> None:
        super().__init__(reason)
        self.kind = kind


class NotStarted(Lost):
    """No child can be started on this machine, or not within its limit of memory: no request can be answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, START)


class Child:
    """A process that answers requests with one function, one at a time; a fresh one is started after a failure.

    module: its `answer(request: dict) -> dict` runs in the child; what is a memoryview in the dict comes as a bytearray,
    and is copied less often. timeout: seconds for one request. memory_gb: most
    resident memory of the child, GB; allocations beyond it fail in the child itself (RLIMIT_DATA), and its resident size
    is watched from here. name: what the reasons call it. setting: what in a config sets memory_gb, for the reasons.
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

    def ask(self, request: dict[str, Any], timeout: float | None = None, most: int | None = None) -> dict[str, Any]:
        """The answer. timeout: seconds for this request, None: the child's. most: bytes that the answer may have.

        Raises Lost with a plain reason: a crash, too long, too much memory, or an exception there; NotStarted.
        """
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()
        try:
            self._pipe.send_bytes(pack(request))
            answer = self._wait(self.timeout if timeout is None else timeout, most)
            raw = {name: self._raw(size, most) for name, size in answer.get("raw", {}).items()}
        except (EOFError, OSError):
            raise self._how_it_ended() from None
        except BaseException:
            self.close()  # lost, or the caller was interrupted: an answer still to come must not be taken for the next
            raise
        if "memory" in answer:
            self.close()
            raise self._too_much()
        if "error" in answer:
            raise Lost(answer["error"], answer["kind"])
        return answer["value"] | raw

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
        """A child that has said that it is ready. NotStarted where none gets so far, after a few tries."""
        for pause in (*START_PAUSES, None):
            try:
                self._spawn()
                said = self._wait(START_SECONDS)
                if "ready" in said:
                    return
                why = said["error"]
            except (EOFError, ConnectionError):
                why = str(self._how_it_ended())
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
                env={**{name: "1" for name in ONE_THREAD}, **os.environ},
                start_new_session=True,  # an interrupt from the keyboard is for us to handle
            )

    def _wait(self, timeout: float, most: int | None = None) -> dict[str, Any]:
        process, end = psutil.Process(self._child.pid), time.monotonic() + timeout
        while not self._pipe.poll(min(LOOK_EVERY, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                raise _too_late(process, timeout)
            with contextlib.suppress(psutil.Error):
                if process.memory_info().rss > self.memory_gb * 1e9:
                    raise self._too_much()
        try:
            return unpack(self._pipe.recv_bytes(most))
        except OSError:
            if self._pipe.readable:
                raise
            raise self._too_long(most) from None

    def _raw(self, size: int, most: int | None) -> bytearray:
        if most is not None and size > most:
            raise self._too_long(most)
        part = bytearray(size)
        self._pipe.recv_bytes_into(part)
        return part

    def _too_long(self, most: int) -> Lost:
        return Lost(f"the {self.name} answered with more than {most} bytes", CRASH)

    def _too_much(self) -> Lost:
        setting = f" ({self.setting})" if self.setting else ""
        return Lost(f"needs more than {self.memory_gb:g} GB of memory{setting}", MEMORY)

    def _how_it_ended(self) -> Lost:
        try:
            code = self._child.wait(10)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code is None or code >= 0:
            return Lost(f"the {self.name}'s process ended unexpectedly (exit code {code})", CRASH)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if -code in FROM_OUTSIDE:
            hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
            return Lost(f"the {self.name}'s process was killed from outside ({name}{hint})", KILLED)
        return Lost(f"the {self.name} crashed ({name})", CRASH)


def _too_late(process: psutil.Process, timeout: float) -> Lost:
    """LATE where the machine is the reason: a child that was stopped, waits for a disk, or wants to compute and may not."""
    said = f"took longer than {timeout:g} s"
    with contextlib.suppress(psutil.Error):
        state, used = process.status(), sum(process.cpu_times()[:2])
        if state in (psutil.STATUS_DISK_SLEEP, psutil.STATUS_STOPPED):
            was = "stopped" if state == psutil.STATUS_STOPPED else "waiting for the disk"
            return Lost(f"{said}: the process was {was}", LATE)
        if state == psutil.STATUS_RUNNING and used < STARVED * timeout:
            return Lost(f"{said}, but was given the processor for {used:.1f} s only: the machine is overloaded", LATE)
    return Lost(said, TIME)


def in_order(threads: Executor, work: Callable[[Item], Found], items: Iterable[Item], ahead: int) -> Iterator[Found]:
    """`work(item)` of each item, in the order of the items; up to `ahead` are under way before they are asked for."""
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
    """Say that this process is ready, or why not; then answer requests until the parent is gone."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    pipe = Connection(descriptor)
    limit, most = int(memory_gb * 1e9), resource.getrlimit(resource.RLIMIT_DATA)[1]
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with silent_stderr():  # libraries that find no memory write pages of it; the parent says it in a line
            answer = importlib.import_module(module).answer
            resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
            bytearray(LEAST_ROOM)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    except Exception as error:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # the reason needs memory too
        reason = str(error).rpartition(": ")[2]  # without the path of a library
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
            kind = LATE if getattr(error, "errno", None) in NO_ROOM else RAISED
            reply, raw = pack({"error": f"{type(error).__name__}: {error}", "kind": kind}), {}
        for part in (reply, *raw.values()):
            pipe.send_bytes(part)


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Standard error goes nowhere meanwhile, that of native code too."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _leave_with(parent: int) -> None:
    """End this process soon after the parent's, in the middle of a decode too."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
