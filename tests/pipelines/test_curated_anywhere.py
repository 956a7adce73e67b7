"""The same curated bytes wherever they lie, whoever cuts them, and whatever was killed on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.base.files import write_json
from curate.base.store import store_of
from curate.export.span import ClipForm
from pipelines.config import load
from pipelines.curated.crew.crew import Crew
from pipelines.curated.curated import CuratedError, CuratedRequest, Work, make_curated
from pipelines.curated.cutting import CutterError
from pipelines.curated.plan.planned import PlannedClips, SourceRoots
from pipelines.curated.plan.rows import batches, write_plan
from pipelines.curated.request import Cluster
from pipelines.curated.scratch import scratch_folder
from tests.pipelines.test_curated import FILTERS, curate, make_dataset, map_here, no_pictures  # noqa: F401
from tests.pipelines.test_formats import Lines, Pairs, Stop

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("anywhere") / "annotated", videos=2)


def objects(place, below="data/"):
    """Name -> bytes of what lies below a folder or URL."""
    store = store_of(place)
    return {entry.name: store.read(entry.name) for entry in store.list(below)}


@pytest.fixture(scope="module")
def expected(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.curated.card.card.plot_scores", lambda *_: [])
        patch.setattr("pipelines.curated.card.card.contact_sheet", lambda *_: False)
        curate(dataset, FILTERS, out, shard_bytes=10_000, map_fn=map_here)
    return objects(out)


@pytest.mark.parametrize("kind", [None, Pairs, Lines], ids=["parquet", "folders", "lines"])
def test_in_a_bucket_as_in_a_folder_also_when_it_was_interrupted(dataset, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("pipelines.curated.plan.planned.SAMPLE_CLIPS", 2)
    how = {"shard_bytes": 10_000, **({"format": kind()} if kind else {})}
    curate(dataset, FILTERS, tmp_path / "out", map_fn=map_here, **how)
    place = f"memory://curated/{kind.name if kind else 'parquet'}"

    def stopping(jobs):
        for job in jobs:
            if not (left := stopping.left):
                raise Stop
            stopping.left = left - 1
            yield from map_here([job])

    stopping.left = 8
    with pytest.raises(Stop):
        curate(dataset, FILTERS, place, map_fn=stopping, **how)
    names = [entry.name for entry in store_of(place).list()]
    assert "selection.json" not in names and any(name.startswith("data/") for name in names)
    with pytest.raises(CuratedError, match="another selection, not finished"):
        curate(dataset, FILTERS, place, map_fn=map_here, seed=3, **how)
    made = curate(dataset, FILTERS, place, map_fn=map_here, **how)
    assert objects(place) == objects(tmp_path / "out") and made.out == place
    assert not objects(place, ".partial/") and set(objects(place, "")) > {"README.md", "selection.json"}
    assert curate(dataset, FILTERS, place, map_fn=map_here, **how).already
    facts = [json.loads(store_of(at).read("selection.json"))["curated"] for at in (place, tmp_path / "out")]
    assert facts[0] == facts[1]


def test_a_shard_that_another_wrote_is_that_shard(dataset, tmp_path, expected, monkeypatch):
    """A worker that was given up for lost may write all the same: whoever comes first, the counts are those of what is there."""
    place = "memory://curated/twice"

    def meanwhile(jobs):
        yield from map_here(jobs)
        for name, data in expected.items():  # before the last shard is put
            store_of(place).put(name, data)

    made = curate(dataset, FILTERS, place, shard_bytes=10_000, map_fn=meanwhile)
    assert objects(place) == expected and made.clips == sum(
        pq.read_metadata(pa.BufferReader(data)).num_rows for data in expected.values()
    )


def test_other_objects_are_left_alone(dataset):
    store_of("memory://curated/mine").put("a.txt", b"mine")
    with pytest.raises(CuratedError, match="not empty and not a curated dataset"):
        curate(dataset, FILTERS, "memory://curated/mine", map_fn=map_here)
    assert list(objects("memory://curated/mine", "")) == ["a.txt"]


def test_passes_of_a_bucket_wait_in_the_bucket(tmp_path, monkeypatch):
    from tests.pipelines.test_exported import make_dataset as one_video
    from tests.pipelines.test_exported import rows_of

    monkeypatch.setattr("pipelines.curated.plan.passes.LEAST_SAVED", 1.0)
    data = one_video(tmp_path / "d", [(a, a + 12) for a in range(0, 120, 12)], gop=1000)
    how = {"workers": 1, "options": {"size": 32}, "shard_bytes": 2500}
    curate(data, [], tmp_path / "out", **how)
    place, seen = "memory://curated/passes", []

    def look(*_):
        seen.append(len(objects(place, ".partial/spool/")))

    made = curate(data, [], place, progress=look, **how)
    assert objects(place) == objects(tmp_path / "out") and len(rows_of(tmp_path / "out")) == made.clips == 10
    assert max(seen) == 10 and not objects(place, ".partial/")


def test_an_unfinished_folder_of_an_older_winnow_is_begun_anew(dataset, tmp_path, expected):
    out = tmp_path / "out"
    old = out / ".partial" / "data" / "train-00000-of-00009.parquet"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of other bounds")
    request = CuratedRequest(FILTERS, shard_bytes=10_000)
    write_json(out / ".partial" / "request.json", request.to_dict(dataset))
    write_json(out / ".partial" / "plan.json", {"bounds": [0, 1, 2]})
    curate(dataset, FILTERS, out, shard_bytes=10_000, map_fn=map_here)
    assert objects(out) == expected


def test_roots_of_sources_may_be_urls():
    roots = SourceRoots({"/data": "s3://bucket/films", "s3://old/a": "gs://new/b", "s3://back": "/disk/x"})
    assert roots("/data/a/b.mp4") == "s3://bucket/films/a/b.mp4"
    assert roots("s3://old/a/c.mp4") == "gs://new/b/c.mp4" and roots("s3://back/d.mp4") == "/disk/x/d.mp4"
    for same in ("/database/a.mp4", "s3://old/ab/c.mp4", "s3://backup/d.mp4"):
        assert roots(same) == same


class Weights(PlannedClips):
    """A plan of clips of these weights, read some at a time."""

    def __init__(self, weights, chunk):
        object.__setattr__(self, "values", np.array(weights, float))
        object.__setattr__(self, "chunk", chunk)
        object.__setattr__(self, "count", len(weights))

    def _weights(self):
        for at in range(0, len(self.values), self.chunk):
            yield self.values[at : at + self.chunk]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_bounds_are_of_equal_weight_however_the_weights_are_read(chunk):
    assert Weights([1] * 12, chunk).bounds(40, {0: 10, 1: 10}) == [0, 4, 8, 12]  # ten bytes a weight: 120 in all
    assert Weights([1, 1, 1, 1, 8], chunk).bounds(60, {0: 10, 2: None}) == [0, 5]
    assert Weights([8, 1, 1, 1, 1], chunk).bounds(60, {0: 80}) == [0, 1, 5]
    assert Weights([2, 2], chunk).bounds(1, {0: None, 1: None}) == [0, 1, 2]  # no more shards than clips
    whole = Weights(np.random.default_rng(0).gamma(2, 2, 100), chunk).bounds(20, {0: 7})
    assert whole == Weights(np.random.default_rng(0).gamma(2, 2, 100), 100).bounds(20, {0: 7}) and whole[-1] == 100


def test_a_plan_of_many_files_has_every_row_once_in_order(dataset, tmp_path, monkeypatch):
    for name, value in (("ROWS", 6), ("GROUP_ROWS", 4)):
        for module in ("rows", "planned"):
            monkeypatch.setattr(f"pipelines.curated.plan.{module}.{name}", value)
    from curate.selection.selection import select

    chosen = select(dataset.labelled_sql, [])
    plan = store_of(tmp_path / "plan")
    count = write_plan(dataset, chosen, seed=0, drop=[], form=ClipForm(), plan=plan, scratch=tmp_path)
    clips = PlannedClips(plan, count, {}, SourceRoots({}), str(tmp_path / "spool"))
    rows = list(clips.rows(0, 20))
    assert count == 20 and [row["_position"] for row in rows] == list(range(20))
    assert sorted(row["clip_id"] for row in rows) == sorted(chosen.kept_ids().to_pylist())
    for first, end in ((0, 1), (5, 7), (6, 6), (11, 20), (3, 14)):
        assert [row["clip_id"] for row in clips.rows(first, end)] == [row["clip_id"] for row in rows[first:end]]
    assert np.concatenate(list(clips._weights())).tolist() == [row["_weight"] for row in rows]


def test_batches_are_of_the_rows_that_are_asked_for():
    parts = [pa.record_batch({"a": np.arange(at, at + size)}) for at, size in ((0, 5), (5, 0), (5, 1), (6, 7))]
    reader = pa.RecordBatchReader.from_batches(parts[0].schema, parts)
    assert [table["a"].to_pylist() for table in batches(reader, 4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12],
    ]


def test_what_a_killed_process_left_on_this_machine_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = tmp_path / "winnow-select-999999999-1-x"
    gone.mkdir()
    with scratch_folder(store_of("memory://curated/x")) as mine:
        assert not gone.exists() and mine.is_dir()
        with scratch_folder(store_of("memory://curated/y")):
            assert mine.is_dir()
    assert not list(tmp_path.iterdir())


def test_memory_is_no_place_for_other_processes(dataset):
    with pytest.raises(CuratedError, match="memory of this process: use --executor inline"):
        curated_by_ray(dataset, "memory://curated/ray")


def curated_by_ray(dataset, out, progress=None):
    cluster = Cluster(None, load("quickstart").model_dump_json())
    work = Work(workers=2, cluster=cluster, progress=progress)
    return make_curated(dataset, CuratedRequest(FILTERS, shard_bytes=3_000), out, work)


def of_ray(what):
    """Ids of this test's processes of Ray whose command begins so."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.Error:
            continue
        if command and os.path.basename(command[0]).startswith(what):
            found.append(child.pid)
    return found


def actors():
    return of_ray("ray::CuttingActor")


def daemons():
    return of_ray("raylet")


def test_workers_of_ray_write_the_same_whatever_of_it_is_killed(dataset, tmp_path):
    """A worker, the daemon under the process that talks to Ray, and a worker again, where that is not done by then."""
    expected = objects(curate(dataset, FILTERS, tmp_path / "here", shard_bytes=3_000, map_fn=map_here).out)
    killed, reported = [], []

    def progress(done, total, failed):
        reported.append((done, total, failed))
        victims = daemons() if len(killed) == 1 else actors() if len(killed) < 3 else []
        if victims:
            os.kill(victims[0], signal.SIGKILL)
            killed.append(victims[0])

    made = curated_by_ray(dataset, tmp_path / "out", progress)
    assert len(killed) >= 2 and objects(tmp_path / "out") == expected
    assert reported[-1] == (made.clips, made.clips, 0) and made.shards == len(expected)
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "data", "selection.json"]
    assert not actors() and not daemons()


class Answer:
    """What `ray` is to a crew, with workers that do as they are told: no process is needed to count its tries."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, answers):
        self.answers, self.made = iter(answers), 0

    def cluster_resources(self):
        return {"CPU": 1}

    def wait(self, references, **_):
        return references[:1], references[1:]

    def get(self, reference):
        (answer,) = reference.args
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor):
        pass

    def hire(self, _):
        self.made += 1
        return self

    class Method:
        def __init__(self, call):
            self.remote = lambda *argument: Exception(call(*argument))  # as a reference: one value, and hashable

    @property
    def ready(self):
        return self.Method(lambda: None)

    @property
    def write(self):
        return self.Method(lambda _: next(self.answers))


def crew_of(answers):
    crew = Crew.__new__(Crew)
    crew.ray = Answer(answers)
    crew.spec, crew.wanted, crew.make = {}, 1, type("Make", (), {"remote": crew.ray.hire})
    from collections import deque

    crew.idle, crew.busy, crew.lost = deque(), {}, 0
    return crew


def test_how_often_a_task_is_given_again():
    class Gone(Answer.exceptions.RayError):
        pass

    done = [{"done": {"n": i}} for i in range(9)]
    crew = crew_of([Gone(1), done[0], Gone(2), Gone(3), done[1]])
    assert sorted(answer["n"] for _, answer in crew.run("write", [(0, 1), (1, 2)])) == [0, 1] and crew.ray.made == 4
    stopped = {"stopped": "the disk is full"}
    crew = crew_of([dict(stopped), dict(stopped), done[0]])
    assert [answer for _, answer in crew.run("write", [(0, 1)])] == [{"n": 0}]
    with pytest.raises(CutterError, match="the disk is full"):
        list(crew_of([dict(stopped) for _ in range(3)]).run("write", [(0, 1)]))
    with pytest.raises(CutterError, match="9 workers were lost, and none finished"):
        list(crew_of([Gone(i) for i in range(20)]).run("write", [(0, 1)]))


def test_killed_at_any_moment_and_started_again_it_is_the_same(dataset, tmp_path, expected):
    """Driver and children that cut, by SIGKILL, at moments of a fixed seed: the plan, the sample, between and in shards."""
    chance, out = random.Random(11), tmp_path / "out"
    command = [sys.executable, "-m", "pipelines.cli", "select", str(dataset.root), "--out", str(out)]
    command += [
        "--drop-bottom",
        "motion_score=25%",
        "--drop-top",
        "text_area=25%",
        "--shard-size",
        "10kB",
        "--workers",
        "2",
    ]
    kills = 0
    for _ in range(12):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for(out / ".partial" / "request.json", process)
        moment = threading.Timer(chance.uniform(0.0, 1.5), lambda p=process: p.kill())
        moment.start()
        code = process.wait(120)
        moment.cancel()
        if code == 0:
            break
        assert code == -signal.SIGKILL and not (out / "selection.json").exists()
        kills += 1
        if kills == 3:
            assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
            break
    assert kills and objects(out) == expected
    assert sorted(os.listdir(out)) == ["README.md", "data", "plots", "selection.json"]


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.02)


def test_sources_and_shards_in_a_bucket_that_fails_now_and_then(dataset, tmp_path, expected, storage):
    """By child processes: what is cut from objects is what is cut from files, and nothing is blamed on a video."""
    bucket = storage.bucket()
    for path in sorted((dataset.root / "src").iterdir()):
        store_of(f"{bucket}/films").put(path.name, path.read_bytes())
    storage.faults(7, 0.1)
    roots = {str(dataset.root / "src"): f"{bucket}/films"}
    made = curate(dataset, FILTERS, f"{bucket}/out", shard_bytes=10_000, workers=2, source_roots=roots)
    assert sum(storage.counts()["faults"].values()) > 5 and not made.failed
    storage.faults(None)
    found = objects(f"{bucket}/out")
    assert list(found) == list(expected) and not objects(f"{bucket}/out", ".partial/")
    for name, data in expected.items():
        here, there = (pq.read_table(pa.BufferReader(part)) for part in (data, found[name]))
        assert here.drop_columns(["video_path"]) == there.drop_columns(["video_path"])
        assert {os.path.dirname(path) for path in there["video_path"].to_pylist()} == {f"{bucket}/films"}
