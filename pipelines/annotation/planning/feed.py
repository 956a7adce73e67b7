"""Tasks as they are planned: made when they are asked for, or ahead of that by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator

from pipelines.annotation.tasks import Task

AHEAD = 512  # tasks that are planned before they are asked for
WAIT_SECONDS = 0.5
END = None


class Feed:
    """The next task, made when it is asked for. ended: there is none left."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.tasks: Iterator[Task] = iter(tasks)
        self.ended = False

    def take(self, wait: bool = True) -> Task | None:
        """A task; None if there is none, or none yet. wait: a while for one."""
        task = next(self.tasks, None)
        self.ended = task is None
        return task

    def close(self) -> None: ...


class AheadFeed(Feed):
    """A thread plans while others work, some hundred tasks ahead. What it raises is raised by `take`."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        super().__init__(tasks)
        self.planned: queue.Queue[Task | None] = queue.Queue(AHEAD)
        self.error: BaseException | None = None
        self.closed = False
        self.thread = threading.Thread(target=self._plan, daemon=True, name="winnow-planning")
        self.thread.start()

    def take(self, wait: bool = True) -> Task | None:
        if self.ended:
            return None
        try:
            task = self.planned.get(timeout=WAIT_SECONDS if wait else 0.001)
        except queue.Empty:
            return None
        self.ended = task is END
        if self.ended and self.error is not None:
            raise self.error
        return task

    def close(self) -> None:
        """End the thread."""
        self.closed = True
        while self.thread.is_alive():
            try:
                self.planned.get(timeout=0.05)
            except queue.Empty:
                continue

    def _plan(self) -> None:
        try:
            for task in self.tasks:
                self.planned.put(task)
                if self.closed:
                    return
        except BaseException as error:  # is raised where tasks are taken
            self.error = error
        finally:
            if hasattr(self.tasks, "close"):
                self.tasks.close()
            self.planned.put(END)


__all__ = ["AheadFeed", "Feed"]
