"""The process that plans, counts and talks to Ray: a child of the command, which Ray may end without a word."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from curate.base.child import pack, unpack
from pipelines.annotation.annotate import annotate_here
from pipelines.annotation.pools import Place
from pipelines.annotation.tasks import Report
from pipelines.cluster import RayDied, check_ray
from pipelines.config import resolve

EXIT_SECONDS = 20.0
LOOK_SECONDS = 1.0  # between looks at Ray's daemons
PLANNED_SECONDS = 0.2  # between two messages of what is planned


class Told:
    """A watcher that sends what it is told to the command."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.lock = pipe, threading.RLock()  # a thread plans, and another works
        self.last: dict[str, float] = {}
        self.kept: dict[str, dict[str, Any]] = {}

    def send(self, message: dict[str, Any]) -> None:
        with self.lock:
            self.pipe.send_bytes(pack(message))

    def planning(self, looked: int) -> None:
        self._now_and_then({"planning": looked})

    def planned(self, units: int, seconds: float, already: int) -> None:
        self._now_and_then({"planned": [units, seconds, already]}, always=units == 1)

    def unit(self, unit: Report) -> None:
        with self.lock:
            kept, self.kept = self.kept, {}
            for message in (*kept.values(), {"unit": unit.plain()}):
                self.send(message)

    def committed(self, units: list[str]) -> None:
        self.send({"committed": units})

    def _now_and_then(self, message: dict[str, Any], always: bool = False) -> None:
        (kind,) = message
        with self.lock:
            now = time.monotonic()
            if always or now - self.last.get(kind, 0.0) >= PLANNED_SECONDS:
                self.last[kind] = now
                self.kept.pop(kind, None)
                self.send(message)
            else:
                self.kept[kind] = message


class _Forwarded(logging.Handler):
    """Warnings are the command's to print, between its progress."""

    def __init__(self, told: Told) -> None:
        super().__init__(logging.WARNING)
        self.told = told

    def emit(self, record: logging.LogRecord) -> None:
        self.told.send({"log": [record.name, record.levelno, record.getMessage()]})


def main(descriptor: int) -> None:
    """Run the job that the command asks for."""
    pipe = Connection(descriptor)
    request = unpack(pipe.recv_bytes())
    threading.Thread(target=_listen, args=(pipe,), daemon=True, name="winnow-command").start()
    told = Told(pipe)
    threading.Thread(target=_look_after_ray, args=(told,), daemon=True, name="winnow-ray").start()
    logging.getLogger().addHandler(_Forwarded(told))
    try:
        summary = annotate_here(
            request["sources"],
            request["out"],
            resolve(json.loads(request["config"]), "the job's config"),
            place=Place(**request["place"]),
            watcher=told,
            stages=request["stages"],
            retry_failed=request["retry_failed"],
        )
        told.send({"summary": summary.plain()})
    except RayDied as error:
        told.send({"again": str(error)})
    except BaseException as error:
        told.send({"error": described(error)})
    ending = threading.Thread(target=atexit._run_exitfuncs, daemon=True)  # temporary folders are deleted there
    ending.start()
    ending.join(EXIT_SECONDS)
    os._exit(0)  # threads of libraries may linger; all is committed and told


def described(error: BaseException) -> dict[str, Any]:
    """An exception as plain values, for `pipelines.annotation.supervising`."""
    kind = type(error)
    plain = [part for part in error.args if part is None or isinstance(part, str | int)]
    if isinstance(error, OSError) and error.filename is not None and isinstance(error.filename, str):
        plain = [error.errno, error.strerror, error.filename]
    return {
        "module": kind.__module__,
        "name": kind.__qualname__,
        "arguments": plain if kind.__module__ == "builtins" else [str(error)],
        "trace": "".join(traceback.format_exception(error)),
    }


def _look_after_ray(told: Told) -> None:
    """End with the local Ray, of which whoever waits for it may never hear."""
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            check_ray()
        except RayDied as error:
            told.send({"again": str(error)})
            os._exit(1)


def _listen(pipe: Connection) -> None:
    """End with the command, and as it asks."""
    try:
        while True:
            if "stop" in unpack(pipe.recv_bytes()):
                os.kill(os.getpid(), signal.SIGINT)
    except (EOFError, OSError):
        os._exit(1)
