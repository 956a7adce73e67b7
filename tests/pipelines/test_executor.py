"""The same list of stages on Ray and in one process gives the same rows; a worker that dies costs nothing but time."""

import subprocess
import sys
import time

import duckdb
import psutil
import pytest

from curate.clip import Unit, Video
from pipelines.annotation.annotate import annotate
from pipelines.annotation.planning.feed import Feed
from pipelines.annotation.pools import Place
from pipelines.annotation.stages import TABLES
from pipelines.annotation.tasks import Task
from pipelines.annotation.workers.actors import OnRay
from pipelines.annotation.workers.executor import run
from pipelines.annotation.workers.worker import Target, work
from pipelines.cluster import ExecutorError
from pipelines.config import load
from pipelines.dataset.dataset import Dataset
from pipelines.status.runlog import RunLog

SMALL = ["text.size=256"]  # CRAFT at a quarter of the pixels: the models are those of the demo, the time is not


def tables(root):
    data = Dataset(root)
    clips = duckdb.sql(f"SELECT * FROM {data.clips_sql} ORDER BY clip_id").fetchall()
    return clips, duckdb.sql(f"SELECT * EXCLUDE (seconds) FROM {data.videos_sql} ORDER BY video_path, unit").fetchall()


@pytest.mark.timeout(900)
def test_ray_and_inline_give_identical_rows_on_the_demo_set(demo_footage, tmp_path, watcher):
    for name, place in (("ray", Place("ray", workers=2)), ("inline", Place("inline"))):
        annotate([str(demo_footage)], tmp_path / name, load("quickstart", SMALL), place=place, watcher=watcher)
    clips, videos = tables(tmp_path / "ray")
    assert (clips, videos) == tables(tmp_path / "inline")
    assert len(clips) >= 12 and len(videos) == 7


def test_a_killed_worker_costs_nothing(small_footage, tmp_path, watcher):
    command = [sys.executable, "-m", "pipelines.cli", "annotate", str(small_footage), "--out", str(tmp_path / "d")]
    process = subprocess.Popen([*command, "--stages", "motion,stills", "--workers", "1"])
    try:
        killed = False
        while not killed and process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    if (
                        "StageWorker" in " ".join(child.cmdline()) and child.children()
                    ):  # its decoder runs: it is at work
                        child.kill()
                        killed = True
                except psutil.Error:
                    continue
            time.sleep(0.1)  # often enough: a unit takes a second; looking costs the workers their start
        assert killed
        assert process.wait(timeout=240) == 1  # the text file failed; the unit that was lost did not
    finally:
        process.kill()
    place = Place("inline")
    annotate(
        [str(small_footage)],
        tmp_path / "calm",
        load("quickstart"),
        place=place,
        watcher=watcher,
        stages=["motion", "stills"],
    )
    assert tables(tmp_path / "d") == tables(tmp_path / "calm")


def test_a_step_that_raises_fails_the_unit_with_its_reason():
    class Broken:
        def __call__(self, units):
            if "b" in [unit.video.path for unit in units]:
                raise RuntimeError("no space left")
            return units

    units = [Unit(Video(name)) for name in "abc"]
    assert [unit.status for unit in work(units, [Broken()])] == ["ok", "failed", "ok"]
    assert units[1].error == "Broken: RuntimeError: no space left"


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    place, target = Place("ray", address="127.0.0.1:1"), Target(str(tmp_path), TABLES, {})
    force = OnRay(load("quickstart"), ["shots"], place, target, RunLog(None, ""))
    with pytest.raises(ExecutorError, match=r"Ray at 127.0.0.1:1 cannot be reached .*--executor inline"):
        list(run(Feed([Task(Unit(Video("a")))]), force))
