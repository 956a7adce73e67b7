"""What a machine did is no video's fault: lost units are tried again by themselves and by the next run; what ends alike twice
is recorded as failed; where nothing can work the job stops and says why. The decoders here are real processes that die."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from curate.base import child as children
from curate.base.child import Lost
from curate.base.files import DiskError, write_json
from curate.clip import Clip, Column, Unit, Video
from curate.stages.stage import Stage
from curate.watching.isolation import record_loss
from pipelines.annotation.annotate import annotate
from pipelines.annotation.decoding import decode_time_limit
from pipelines.annotation.planning.feed import Feed
from pipelines.annotation.planning.planner import Planner
from pipelines.annotation.pools import Place
from pipelines.annotation.tasks import Report, Task
from pipelines.annotation.workers.executor import run
from pipelines.annotation.workers.force import Died, Done
from pipelines.annotation.workers.ray_worker import StageWorker
from pipelines.annotation.workers.worker import Worker, work
from pipelines.cluster import ExecutorError
from pipelines.config import load
from pipelines.demo import write
from tests.footage import pan
from tests.pipelines.test_annotate import rows

NAUGHTY = """
import json, os, signal, time, curate.video.decode, curate.watching.watch
log = LOG
def said(what, path):
    with open(log, "a") as stream: stream.write(json.dumps([what, os.path.basename(path)]) + chr(10))
    with open(log) as stream: return [json.loads(line) for line in stream].count([what, os.path.basename(path)])
def misbehave(what, path):
    times, name = said(what, path), os.path.basename(path)
    if not name.startswith(what): return
    if "once" in name and times > 1: return
    if "kill" in name: os.kill(os.getpid(), signal.SIGKILL)
    if "abort" in name: os.abort()
    if "sleep" in name: time.sleep(60)
    if "grow" in name: kept = [bytearray(50_000_000) for _ in range(100)]
watch, plan = curate.watching.watch.watch, curate.watching.watch.plan
def naughty_watch(unit, **how):
    misbehave("watch", unit.video.path)
    return watch(unit, **how)
def naughty_plan(video, **how):
    misbehave("plan", video.path)
    return plan(video, **how)
curate.watching.watch.watch, curate.watching.watch.plan = naughty_watch, naughty_plan
"""


@pytest.fixture
def films(tmp_path):
    """Makes films of these names, each other content of one shot."""

    def make(*names):
        folder = tmp_path / "films"
        folder.mkdir(exist_ok=True)
        for seed, name in enumerate(names):
            write(folder / f"{name}.mp4", pan(20, 2, seed=seed))
        return folder

    return make


@pytest.fixture
def naughty(tmp_path, monkeypatch):
    """Decoders do what a file's name says: watch kill once.mp4, plan sleep.mp4 ... The log of what they were asked."""
    log = tmp_path / "log"
    boot = children.BOOT.split("; ", 2)
    text = "; ".join(boot[:2]) + "\n" + NAUGHTY.replace("LOG", repr(str(log))) + boot[2]
    monkeypatch.setattr(children, "BOOT", text)
    monkeypatch.setattr(children, "START_RETRY_SECONDS", (0.05,))
    return log


def job(folder, out, watcher, *overrides, place="inline", **options):
    config = load("quickstart", ["decode.memory_gb=1", *overrides])
    return annotate([str(folder)], out, config, place=Place(place), watcher=watcher, stages=["shots"], **options)


def videos(out):
    return dict(rows(out, "parse_filename(video_path, true), status", "videos"))


def test_a_killed_decoder_costs_a_second_try_and_nothing_else(films, naughty, tmp_path, watcher):
    summary = job(films("a", "watch kill once", "z"), tmp_path / "d", watcher)
    assert not summary.anything_failed and set(videos(tmp_path / "d").values()) == {"ok"}
    assert [json.loads(line) for line in naughty.read_text().splitlines() if json.loads(line)[0] == "watch"] == [
        ["watch", "a.mp4"], ["watch", "watch kill once.mp4"], ["watch", "z.mp4"], ["watch", "watch kill once.mp4"],
    ]  # fmt: skip


def test_what_is_killed_each_time_is_lost_and_done_by_the_next_run(films, naughty, tmp_path, watcher, monkeypatch):
    folder = films("a", "watch kill", "plan kill")
    summary = job(folder, tmp_path / "d", watcher)
    assert videos(tmp_path / "d") == {"a": "ok", "watch kill": "lost", "plan kill": "lost"}
    assert summary.failed == 0 and summary.anything_failed and {why[:70] for _, why in summary.lost} == {
        "the decoder's process was killed from outside (SIGKILL; the machine ma"
    }  # fmt: skip
    monkeypatch.undo()
    again = job(folder, tmp_path / "d", watcher)  # no --retry-failed
    assert (again.videos, again.already, again.anything_failed) == (2, 1, False)
    assert set(videos(tmp_path / "d").values()) == {"ok"}


@pytest.mark.parametrize(
    "what, reason",
    [
        ("watch abort", "the decoder crashed (SIGABRT)"),
        ("plan abort", "the decoder crashed (SIGABRT)"),
        ("watch grow", "needs more than 1 GB of memory (decode.memory_gb)"),
        ("watch sleep", "took longer than 1 s"),
    ],
)
def test_what_ends_alike_twice_is_failed(films, naughty, tmp_path, watcher, what, reason):
    short = ("decode.timeout_seconds=1", "decode.timeout_per_second=0") if "sleep" in what else ()
    summary = job(films("a", what, "z"), tmp_path / "d", watcher, *short)
    assert videos(tmp_path / "d") == {"a": "ok", what: "failed", "z": "ok"}
    assert [why for _, why in summary.failures] == [reason] and not summary.lost
    asked = [json.loads(line) for line in naughty.read_text().splitlines()]
    assert asked.count([what.split()[0], f"{what}.mp4"]) == 2


def test_a_loss_never_replaces_good_rows(films, naughty, tmp_path, watcher):
    folder, out = films("a", "watch kill"), tmp_path / "d"
    config = load("quickstart", ["decode.isolate=false"])
    annotate([str(folder)], out, config, place=Place("inline"), watcher=watcher, stages=["stills"])
    before = rows(out, "clip_id, still_middle")
    config = load("quickstart")
    summary = annotate([str(folder)], out, config, place=Place("inline"), watcher=watcher, stages=["motion"])
    assert len(summary.lost) == 1 and summary.failed == 0
    assert rows(out, "clip_id, still_middle") == before and set(videos(out).values()) == {"ok"}
    assert sum(score is None for (score,) in rows(out, "motion_score")) == 1
    assert rows(out, "cardinality(errors)") == [(0,), (0,)]  # it is no failure of the stage: the next run does it


def test_killed_by_its_pid_from_outside(films, tmp_path, watcher):
    """Every decoder that shows up within the first seconds is killed, planners too."""
    folder = films("a", "b", "c")
    stop, killed = threading.Event(), []

    def hunt():
        while not stop.is_set() and len(killed) < 2:
            for child in psutil.Process().children():
                if "curate.base.child" in " ".join(child.cmdline()):
                    child.kill()
                    killed.append(child.pid)
            time.sleep(0.7)

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        summary = job(folder, tmp_path / "d", watcher)
    finally:
        stop.set()
        thread.join()
    assert killed and summary.failed == 0
    if summary.lost:
        assert not job(folder, tmp_path / "d", watcher).anything_failed
    assert videos(tmp_path / "d") == {"a": "ok", "b": "ok", "c": "ok"}


def test_where_all_are_lost_alike_the_job_stops_and_what_was_done_stays(films, naughty, tmp_path, watcher):
    folder = films(*[f"watch kill {i}" for i in range(8)])
    with pytest.raises(ExecutorError, match=r"stopped: 6 units in a row were lost alike .*SIGKILL.*: free memory"):
        job(folder, tmp_path / "d", watcher)
    assert videos(tmp_path / "d") == {f"watch kill {i}": "lost" for i in range(6)}
    assert naughty.read_text().count('["watch"') == 6  # nothing was tried again in vain


class FakeForce:
    """Workers that are none: outcome(unit, alone, times) says which kind of loss a unit meets there, or None; "gone": its
    worker dies. Rows are committed `every` so many units, and go with the worker before that."""

    size = 4

    def __init__(self, outcome, every=1):
        self.outcome, self.every = outcome, every
        self.given, self.kept, self.asked, self.single, self.commits = [], [], [], False, []

    def room(self):
        return len(self.given) < 4

    def give(self, task):
        self.given.append(task)

    def busy(self):
        return len(self.given)

    def uncommitted(self):
        return len(self.kept)

    def alone(self):
        self.single = True

    def flush(self):
        self.commits += [task.id for task in self.kept]
        self.kept = []

    def close(self): ...

    def events(self, work=True):
        if not (work and self.given):
            return
        task = self.given.pop(0)
        self.asked.append((task.unit.video.path, self.single))
        kind = self.outcome(task.unit, self.single, sum(path == task.unit.video.path for path, _ in self.asked))
        if kind == "gone":
            kept, self.kept, given, self.given = self.kept, [], self.given, []
            yield Died("so it was", "worker", [task], given, kept)
            return
        unit = record_loss(task.unit, Lost("so it was", kind)) if kind else task.unit
        if unit.status != "lost":
            self.kept.append(task)
        yield Done(task, Report.of(unit, written=unit.status != "lost"))
        if len(self.kept) >= self.every:
            self.flush()


def over(count, outcome, every=1, **options):
    """(force, path -> status in the order they finish) of so many units."""
    force = FakeForce(outcome, every)
    return force, outcomes(count, force, **options)


def outcomes(count, force, **options):
    for _, report in run(Feed(Task(Unit(Video(f"{i:02}"))) for i in range(count)), force, **options):
        yield report


def statuses(found):
    return [report.status for report in found]


def test_crashes_do_not_stop_the_job_and_one_done_unit_buys_patience():
    _, found = over(9, lambda unit, alone, times: "crash")
    assert statuses(found) == ["failed"] * 9
    first_only = lambda unit, alone, times: None if unit.video.path == "00" else "killed"  # noqa: E731
    force, found = over(20, first_only)
    assert statuses(found) == ["ok"] + ["lost"] * 19
    assert len(force.asked) == 20 + 6  # six in vain, with nothing beside them, are enough
    found = []
    with pytest.raises(ExecutorError, match=r"stopped: 32 units in a row were lost alike \(so it was\)"):
        found.extend(over(50, first_only)[1])
    assert statuses(found) == ["ok"] + ["lost"] * 32
    assert sum(1 for _ in over(20, first_only, before=1)[1]) == 20


def test_kinds_of_losses_do_not_add_up_to_a_failure():
    kinds = ["killed", "memory", "late"]
    (report,) = over(1, lambda unit, alone, times: kinds[times - 1])[1]
    assert (report.status, report.lost) == ("lost", kinds)
    assert statuses(over(1, lambda unit, alone, times: ["killed", "time", "time"][times - 1])[1]) == ["failed"]


def test_two_files_that_stall_when_they_are_opened(films, naughty, tmp_path, watcher):
    names = ["plan sleep 1", "plan sleep 2", *"bcdefghij"]
    began = time.monotonic()
    summary = job(films(*names), tmp_path / "d", watcher, "decode.open_seconds=2")
    assert {name for name, status in videos(tmp_path / "d").items() if status == "failed"} == set(names[:2])
    assert {why for _, why in summary.failures} == {"took longer than 2 s"} and summary.clips == 9
    assert time.monotonic() - began < 45


def test_the_time_to_plan_a_file_follows_its_size(films, tmp_path, naughty, watcher, monkeypatch):
    """All packets of a large file may be read: a slow disk is no fault of it, and a stall still ends."""
    folder = films("plan sleep")
    config = load("quickstart", ["decode.open_seconds=2"])
    with open(tmp_path / "large", "wb") as stream:
        stream.truncate(30_000_000_000)  # sparse
    with Planner(config) as planner:
        assert planner.limit(str(tmp_path / "large")) == 2 + 3000
        assert planner.limit(str(tmp_path / "gone")) == 2
    monkeypatch.setattr("pipelines.annotation.planning.planner.READING", os.path.getsize(folder / "plan sleep.mp4"))
    summary = job(folder, tmp_path / "d", watcher, "decode.open_seconds=2")
    assert [why for _, why in summary.failures] == ["took longer than 3 s"]


def cli(*arguments, code="import sys; from pipelines.cli.app import app; app(standalone_mode=False)"):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


NO_RAY = """
import sys
from pipelines.cli.app import app
try:
    app()
finally:
    assert "ray" not in sys.modules, "Ray was imported"
"""


def test_nothing_to_do_starts_no_ray(films, tmp_path, watcher):
    folder, out = films("a"), tmp_path / "d"
    job(folder, out, watcher)
    done = cli("annotate", folder, "--out", out, "--stages", "shots", code=NO_RAY)  # the default executor
    assert done.returncode == 0 and "nothing to do: 1 input in the dataset already" in done.stdout, done.stderr


def test_only_unreadable_files_are_told_without_ray(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "a.mp4").write_text("no video")
    (folder / "b.mp4").touch()
    command = ("annotate", folder, "--out", tmp_path / "d", "--stages", "shots")
    first, again = cli(*command, code=NO_RAY), cli(*command, code=NO_RAY)
    assert (first.returncode, again.returncode) == (1, 1), first.stderr
    for said in (first.stdout, again.stdout):
        assert "1 x is a text, not a video" in said and "1 x is empty (0 bytes)" in said
    assert "nothing to do" in again.stdout and "+ 2 in earlier runs" in again.stdout


def test_a_memory_limit_that_no_decoder_starts_under_ends_the_job(films, naughty, tmp_path, watcher):
    with pytest.raises(ExecutorError, match=r"cannot start within its 0.05 GB of memory .*: raise decode.memory_gb"):
        job(films("a", "b"), tmp_path / "d", watcher, "decode.memory_gb=0.05", place="ray")
    assert not list((tmp_path / "d" / "videos").iterdir())  # no video was blamed


def test_a_worker_on_ray_without_memory_for_a_decoder_stops_the_job():
    """What a worker's reply says ends the job, without another try: an exception would be Ray's to retry."""
    worker = StageWorker("a")
    worker.worker = Worker.__new__(Worker)
    worker.worker.steps = [lambda units: (_ for _ in ()).throw(children.NotStarted("no room"))]
    reply, made = worker.work([Task(Unit(Video("a"))).pack()])
    assert isinstance(reply, ExecutorError) and str(reply) == "no room" and made == b""


@pytest.mark.parametrize("deaths, status", [(1, "ok"), (2, "failed")])
def test_a_worker_that_dies_is_a_loss_and_alone_again_a_failure(deaths, status):
    force, found = over(3, lambda unit, alone, times: "gone" if unit.video.path == "01" and times <= deaths else None)
    found = list(found)
    assert [(report.path, report.status) for report in found] == [("00", "ok"), ("02", "ok"), ("01", status)]
    assert [alone for path, alone in force.asked if path == "01"] == [False, True]
    if status == "failed":
        assert found[-1].error.startswith(
            "the worker process died 2 times while working on it, also with nothing beside"
        )


def test_what_waited_or_was_not_committed_is_done_again_and_blamed_for_nothing():
    """Of 30 units, every seventh kills its worker once: with it go up to nine that were done, and three that waited."""
    force, found = over(
        30, lambda unit, alone, times: "gone" if int(unit.video.path) % 7 == 6 and times == 1 else None, 10
    )
    found = list(found)
    assert statuses(found) == ["ok"] * 30 and len({report.path for report in found}) == 30
    assert all(not report.lost for report in found if int(report.path) % 7 != 6)
    assert sorted(force.commits) == sorted(report.id for report in found)


def test_workers_that_all_die_stop_the_job_and_blame_no_unit():
    found = []
    with pytest.raises(
        ExecutorError, match=r"stopped: 20 workers in a row ended without finishing a unit \(so it was\)"
    ):
        found.extend(over(60, lambda unit, alone, times: "gone" if unit.video.path >= "10" else None)[1])
    assert statuses(found) == ["ok"] * 10 + ["lost"] * 20


def test_a_step_without_memory_is_a_loss_then_recorded_on_the_clip():
    class Hungry(Stage):
        name, columns = "hungry", (Column("size", None, ""),)

        def process(self, clips):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    class Full:
        def __call__(self, units):
            raise OSError(errno.ENOSPC, "No space left on device")

    clip = dict(start_frame=0, end_frame=9, start_time=0, end_time=1, shot_start_time=0, shot_end_time=1)
    (unit,) = work([Unit(Video("a"), clips=[Clip(**clip)])], [Hungry()])
    assert unit.status == "lost" and unit.lost == ["memory"]
    (unit,) = work([Unit(Video("a"), clips=[Clip(**clip)], lost=unit.lost)], [Hungry()])
    assert unit.status == "ok" and "CUDA out of memory" in unit.clips[0].errors["hungry"]
    for _ in range(3):
        (unit,) = work([Unit(Video("a"), lost=unit.lost)], [Full()])
        assert unit.status == "lost" and "No space left on device" in unit.error


def test_the_time_limit_follows_the_footage():
    config = load("quickstart")
    facts = {"duration": 300.0, "width": 1920, "height": 1080, "bytes": 10_000_000}
    assert decode_time_limit(config, Unit(Video("a"), facts=facts)) == 60 + 10 * 300 + 1  # the file is read whole once
    assert (
        decode_time_limit(config, Unit(Video("a"), facts=facts | {"width": 3840, "height": 2160}))
        == 60 + 10 * 300 * 4 + 1
    )
    assert decode_time_limit(config, Unit(Video("a"), facts=facts | {"duration": 6.0, "width": 64})) == 60 + 10 * 8 + 1
    silent = {"duration": None, "bytes": 125_000_000}  # a header that says nothing, or too little: by the size
    assert decode_time_limit(config, Unit(Video("a"), facts=silent)) == 60 + 10 * 100 + 12
    assert decode_time_limit(load("quickstart", ["decode.timeout_per_second=0"]), Unit(Video("a"), facts=facts)) == 61


def test_a_full_disk_is_named(films, tmp_path, watcher, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = films("a")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=rf"^{tmp_path}: cannot be written to \(No space left on device\): free space"):
        write_json(tmp_path / "a.json", {})
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr("curate.base.store.folder.flush", full)
        with pytest.raises(DiskError, match=r"/d: cannot be written to \(No space left on device\): free space there"):
            job(folder, tmp_path / "d", watcher)
    assert not list((tmp_path / "d").rglob("*.tmp"))
    assert not job(folder, tmp_path / "d", watcher).anything_failed
