"""Memory of the driver over the number of units, with simulated stages: everything is real but the workers.

    python -m tests.benchmarks.driver_memory [UNITS]

Inputs stream in; each is planned as one unit of a made-up file; a worker that is none returns it with two clips, and commits
each 500 as a shard, whose footer is all that the driver gets. Ledger, scheduling, counting, manifest and events are those of a
job. Prints resident memory and time at each tenth of the way.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator

import psutil

from curate.base.store import store_of
from curate.clip import Unit, Video
from pipelines.annotation.planning.feed import Feed
from pipelines.annotation.planning.ledger import Ledger
from pipelines.annotation.summary import Summary
from pipelines.annotation.tasks import Report, Task
from pipelines.annotation.workers.executor import run
from pipelines.annotation.workers.force import Committed, Done, Event
from pipelines.dataset.dataset import Manifest
from pipelines.dataset.shards import Footer
from pipelines.dataset.shards.footer import footer_rows
from pipelines.status.runlog import RunLog

SHARD, WORKERS, HELD = 500, 64, 2
STAGES = ("shots", "motion", "stills")


class Simulated:
    """Workers that do nothing, each with units in hand and units that are not committed yet."""

    size = WORKERS

    def __init__(self) -> None:
        self.given: list[Task] = []
        self.waiting: list[list[Task]] = [[] for _ in range(WORKERS)]
        self.turn = 0

    def room(self) -> bool:
        return len(self.given) < WORKERS * HELD

    def give(self, task: Task) -> None:
        self.given.append(task)

    def busy(self) -> int:
        return len(self.given)

    def uncommitted(self) -> int:
        return sum(map(len, self.waiting))

    def events(self, work: bool = True) -> Iterator[Event]:
        given, self.given = self.given, []
        for task in given:
            mine = self.waiting[self.turn % WORKERS]
            self.turn += 1
            mine.append(task)
            report = Report(task.id, task.unit.video.path, clips=2, footage=8.0, seconds={"decode": 1.0}, written=True)
            yield Done(task, report)
            if len(mine) >= SHARD:
                yield self._commit(mine)
        if not given:
            for mine in filter(None, self.waiting):
                yield self._commit(mine)

    def flush(self) -> None: ...
    def alone(self) -> None: ...
    def close(self) -> None: ...

    def _commit(self, tasks: list[Task]) -> Committed:
        name = hashlib.blake2b(tasks[0].id.encode(), digest_size=8).hexdigest()
        units = [task.unit for task in tasks]
        rows = footer_rows(name, units, stages=STAGES, generation=0, replaces=(), run="simulated", form="")
        tasks.clear()
        return Committed(Footer(name, rows))


def planned(count: int, ledger: Ledger) -> Iterator[Task]:
    """Tasks as of a first run: every content is claimed, as duplicates are found."""
    for number in range(count):
        content = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
        path = f"/footage/{number // 1000:06}/{number:09}.mp4"
        assert ledger.claim(content, path) == path and ledger.row(f"{content}-0000") is None
        facts = {"duration": 8.0, "bytes": 4_000_000, "modified": number, "width": 1280, "height": 720, "codec": "h264"}
        yield Task(Unit(Video(path, content), facts=facts, todo=list(STAGES)), STAGES)


def main(count: int) -> int:
    """Returns the most resident memory, in MB, beside that at the start."""
    process, began, done, most = psutil.Process(), time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        store, summary, ledger = store_of(folder), Summary(), Ledger()
        manifest, log = Manifest(store), RunLog(store, "simulated")
        print(f"{'units':>12} {'MB':>7} {'s':>8}")
        for told in run(Feed(planned(count, ledger)), Simulated(), log):
            if isinstance(told, Footer):
                manifest.add(told)
                log.committed(told.shard, len(told.units))
                continue
            _, report = told
            summary.count(report)
            facts = {"path": report.path, "footage": report.footage, "clips": report.clips}
            log.finished(report.id, report.status, **facts, seconds=report.seconds)
            done += 1
            if done % max(1, count // 10) == 0:
                resident = process.memory_info().rss / 1e6
                most = max(most, round(resident))
                print(f"{done:12,} {resident:7.0f} {time.monotonic() - began:8.1f}", flush=True)
        manifest.flush()
        log.close()
        ledger.close()
        assert summary.videos == count and summary.clips == 2 * count
    return most


if __name__ == "__main__":
    most = main(int(sys.argv[1]) if sys.argv[1:] else 100_000)
    print(f"at most {most} MB")
