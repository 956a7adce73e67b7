"""The process that talks to Ray for `winnow select`: a child of the command, which Ray may end without a word."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from curate.base.child import pack, unpack
from pipelines.cluster import RaySession
from pipelines.curated.crew.crew import Crew

__all__ = ["main"]


class _Line:
    """To the command. Its messages wait in a queue; when it is gone, so is this process."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.lock = pipe, threading.Lock()
        self.said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True, name="winnow-command").start()

    def tell(self, **message: Any) -> None:
        with self.lock:
            self.pipe.send_bytes(pack(message))

    def tasks(self) -> Iterator[tuple[int, Any]]:
        """Those that the command hands out, each asked for when there is a worker for it soon."""
        while True:
            self.tell(want=1)
            said = self.said.get()
            if "task" not in said:
                return
            key, argument = said["task"]
            yield key, argument

    def _listen(self) -> None:
        try:
            while True:
                self.said.put(unpack(self.pipe.recv_bytes()))
        except (EOFError, OSError):
            os._exit(1)


def main(descriptor: int) -> None:
    """Do what the command asks for, until it says that it is done."""
    line = _Line(Connection(descriptor))
    start = line.said.get()
    try:
        session = RaySession(start["address"], "use --executor inline", lambda text: line.tell(note=text))
        with session, Crew(start["spec"], start["workers"]) as crew:
            while "run" in (said := line.said.get()):
                for key, answer in crew.run(said["run"], line.tasks()):
                    line.tell(done=[key, answer])
                line.tell(ran=said["run"])
    except BaseException as error:
        line.tell(error=[type(error).__name__, str(error), "".join(traceback.format_exception(error))])
    os._exit(0)  # threads of libraries may linger
