"""What is exported is what was scored: trimmed copies, filters that they must still pass, sources that changed or moved."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.base.files import DiskError, write_json
from curate.clip import Clip, Unit, Video
from curate.selection.filters import Filter
from curate.video.identity import fingerprint
from pipelines.curated.curated import CuratedError
from pipelines.curated.cutting import Cutters, cut_together
from pipelines.dataset.dataset import FORMAT, Dataset, Writer
from pipelines.dataset.lock import held
from tests.curate.odd_clocks import levels
from tests.pipelines.test_curated import TABLES, curate, footage, map_here, no_pictures  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_pictures")


def make_dataset(root, spans, gop=12, motion=5.0, clock="file"):
    """One video of 120 frames with a keyframe every `gop`, and clips of these spans."""
    (root / "src").mkdir(parents=True)
    write_json(root / "dataset.json", {"format": FORMAT, "config": {"pack": "embedded"}, "models": {}})
    path = footage(root / "src" / "a.mp4", 1, gop=gop)
    clips = [
        Clip(
            a,
            b,
            a / 25,
            b / 25,
            a / 25,
            b / 25,
            values={"motion_score": motion},
            fps=25.0,
            width=64,
            height=48,
            clock=clock,
        )
        for a, b in spans
    ]
    facts = {"duration": 4.8, "bytes": os.path.getsize(path), "keyframes": [i / 25 for i in range(0, 120, gop)]}
    writer = Writer(root, TABLES, models={}, shard_clips=50)
    writer.add(Unit(Video(path, fingerprint(path)), facts=facts, clips=clips), stages=["shots"])
    writer.flush()
    return Dataset(root)


def rows_of(out):
    return sorted(
        (row for path in sorted((out / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()),
        key=lambda row: row["clip_id"],
    )


def test_a_row_has_the_span_of_its_bytes_and_the_one_that_was_scored(tmp_path):
    dataset = make_dataset(tmp_path / "d", [(11, 48), (60, 96)])
    made = curate(dataset, [], tmp_path / "out", map_fn=map_here)
    first, second = rows_of(tmp_path / "out")
    assert (first["cut"], first["start_frame"], first["scored_start_frame"], first["scored_end_frame"]) == (
        "copy",
        12,
        11,
        48,
    )
    assert first["start_time"] == pytest.approx(12 / 25) and first["scored_start_time"] == pytest.approx(11 / 25)
    assert first["num_frames"] == first["end_frame"] - first["start_frame"] >= 0.9 * 37
    lost = 37 - first["num_frames"] + 36 - second["num_frames"]
    assert (made.frames_scored, made.frames_lost) == (73, lost) and made.trimmed >= 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Trimmed: {made.trimmed} of 2 copies" in card and f"{lost} frames, {lost / 73:.1%} of all" in card


@pytest.mark.parametrize(
    "chosen",
    [
        Filter("min", "num_frames", 37),
        Filter("where", sql="end_time - start_time >= 37 / 25 - 1e-6"),
        Filter("where", sql="(SELECT max(num_frames) FROM clips) = num_frames"),
    ],
)
def test_a_copy_that_would_fail_a_filter_is_encoded_whole(tmp_path, chosen):
    dataset = make_dataset(tmp_path / "d", [(11, 48)])
    curate(dataset, [chosen], tmp_path / "out", map_fn=map_here)
    (row,) = rows_of(tmp_path / "out")
    assert (row["cut"], row["num_frames"], row["start_frame"]) == ("transcode", 37, 11)
    about = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert about["curated"]["why_transcoded"] == {f"a copy would fail {chosen.name}": 1}


@pytest.mark.parametrize(
    "chosen",
    [
        Filter("min", "motion_score", 1),
        Filter("min", "num_frames", 30),
        Filter("where", sql="end_time - start_time > 1.2 AND height < 100 AND source_caption IS NULL"),
    ],
)
def test_a_filter_that_a_copy_still_passes_leaves_it_alone(tmp_path, chosen):
    dataset = make_dataset(tmp_path / "d", [(11, 48)])
    made = curate(dataset, [chosen], tmp_path / "out", map_fn=map_here)
    assert (made.copied, made.transcoded, made.trimmed) == (1, 0, 1)


@pytest.mark.parametrize("workers", [None, 1])
def test_every_row_has_its_own_bytes_when_some_are_cut_again(tmp_path, workers):
    """Among the clips that are cut first, to learn their size, and later ones."""
    spans = [(0, 37), (11, 48), (36, 73), (47, 84), (60, 97), (71, 108)]
    dataset = make_dataset(tmp_path / "d", spans)
    how = {"workers": 1} if workers else {"map_fn": map_here}
    made = curate(dataset, [Filter("min", "num_frames", 37)], tmp_path / "out", **how)
    whole = list(levels(tmp_path / "d" / "src" / "a.mp4"))
    assert made.clips == 6 and made.transcoded >= 3
    for row in rows_of(tmp_path / "out"):
        assert row["clip_id"].endswith(f"{row['scored_start_frame']:08d}")
        shown = list(levels(row["video"]["bytes"]))
        assert len(shown) == row["num_frames"] >= 37
        assert np.abs(np.array(shown) - whole[row["start_frame"] : row["end_frame"]]).max() < 3


def test_another_rate_is_no_copy_and_no_filter_is_asked_of_it(tmp_path):
    dataset = make_dataset(tmp_path / "d", [(11, 48)])
    chosen = [Filter("min", "num_frames", 30)]
    curate(dataset, chosen, tmp_path / "out", options={"fps": 8}, map_fn=map_here)
    about = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert about["curated"]["why_transcoded"] == {"asked for": 1}


def test_a_source_that_was_replaced_is_not_cut(tmp_path):
    dataset = make_dataset(tmp_path / "d", [(12, 48)])
    path = tmp_path / "d" / "src" / "a.mp4"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255  # the same size
    path.write_bytes(data)
    with pytest.raises(CuratedError, match=r"a\.mp4: is not the file that was annotated.*run `winnow annotate`"):
        curate(dataset, [], tmp_path / "out", map_fn=map_here)


def test_sources_that_were_moved_are_cut_from_where_they_are(tmp_path):
    dataset = make_dataset(tmp_path / "d", [(12, 48)])
    shutil.move(tmp_path / "d" / "src", tmp_path / "elsewhere")
    with pytest.raises(CuratedError, match="no such file"):
        curate(dataset, [], tmp_path / "out", map_fn=map_here)
    shutil.rmtree(tmp_path / "out")
    roots = {str(tmp_path / "d" / "src"): str(tmp_path / "elsewhere")}
    curate(dataset, [], tmp_path / "out", map_fn=map_here, source_roots=roots)
    (row,) = rows_of(tmp_path / "out")
    assert row["video_path"] == str(tmp_path / "elsewhere" / "a.mp4")
    assert curate(dataset, [], tmp_path / "out", map_fn=map_here, source_roots=roots).already
    with pytest.raises(CuratedError, match="where the sources lie"):
        curate(dataset, [], tmp_path / "out", map_fn=map_here)


def test_many_clips_after_one_keyframe_are_cut_in_one_pass(tmp_path, monkeypatch):
    """The same bytes as cut one by one, and none of them was."""
    monkeypatch.setattr("pipelines.curated.plan.passes.LEAST_SAVED", 1.0)
    spans = [(a, a + 12) for a in range(0, 120, 12)]
    dataset = make_dataset(tmp_path / "d", spans, gop=1000)
    alone = curate(dataset, [], tmp_path / "alone", map_fn=map_here)
    together = curate(dataset, [], tmp_path / "together", workers=1)
    assert (together.copied, together.transcoded) == (alone.copied, alone.transcoded) and together.transcoded >= 9
    assert rows_of(tmp_path / "together") == rows_of(tmp_path / "alone")
    assert not (tmp_path / "together" / ".partial").exists()


@pytest.fixture
def passes_made(monkeypatch):
    """Frames that each pass begins its clips with, from now on; passes are worth it for small files too."""
    made = []

    def together(self, groups, folder):
        for group in groups:
            made.append(sorted(job.span.start_frame for job in group))
            yield cut_together(group, folder)

    monkeypatch.setattr("pipelines.curated.plan.passes.LEAST_SAVED", 0.4)
    monkeypatch.setattr("pipelines.curated.plan.passes.LEAST_RATIO", 1.0)
    monkeypatch.setattr(Cutters, "together", together)
    return made


def test_clips_that_can_be_copied_are_in_no_pass(tmp_path, passes_made):
    dataset = make_dataset(tmp_path / "d", [(a, a + 12) for a in range(0, 120, 12)], gop=24)
    curate(dataset, [], tmp_path / "copies", workers=1)
    assert passes_made == []
    curate(dataset, [], tmp_path / "small", workers=1, options={"size": 32})
    assert sorted(passes_made) == [[a, a + 12] for a in range(0, 120, 24)]


def test_clips_that_have_to_be_counted_are_cut_in_one_pass(tmp_path, passes_made):
    """However many keyframes there are: their packets cannot be told apart, so none is copied."""
    starts = range(0, 120, 12)
    dataset = make_dataset(tmp_path / "d", [(a, a + 12) for a in starts], clock="counted")
    alone = curate(dataset, [], tmp_path / "alone", map_fn=map_here)
    assert (alone.copied, passes_made) == (0, [])
    curate(dataset, [], tmp_path / "together", workers=1)
    assert passes_made == [list(starts)] and rows_of(tmp_path / "together") == rows_of(tmp_path / "alone")


def test_passes_are_made_as_shards_need_them_and_count_as_progress(tmp_path, passes_made):
    """Five groups of two: none is made before its turn, each clip counts once, and what is written leaves the spool."""
    dataset = make_dataset(tmp_path / "d", [(a, a + 12) for a in range(0, 120, 12)], gop=24)
    out, reported = tmp_path / "out", []

    def progress(done, total, failed):
        reported.append((done, len(passes_made), len(list((out / ".partial" / "data").glob("*.parquet")))))
        assert (total, failed) == (10, 0)

    how = {"workers": 1, "options": {"size": 32}, "shard_bytes": 1500, "progress": progress}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.curated.plan.planned.SAMPLE_CLIPS", 1)
        made = curate(dataset, [], out, **how)
    counts = [done for done, _, _ in reported]
    assert counts == sorted(counts) and counts[-1] == 10 and made.clips == 10 and made.shards > 2
    assert reported[0] == (2, 1, 0)  # reported after the first pass, before the next is made
    assert min(passes for _, passes, shards in reported if shards) < 5 == len(passes_made)


def test_what_lies_in_the_spool_is_not_cut_again_after_an_interruption(tmp_path, passes_made):
    dataset = make_dataset(tmp_path / "d", [(a, a + 12) for a in range(0, 120, 12)], gop=1000)
    out = tmp_path / "out"

    def stop(*_):
        if list((out / ".partial" / "data").glob("*.parquet")):
            raise KeyboardInterrupt

    how = {"workers": 1, "options": {"size": 32}, "shard_bytes": 5000}
    with pytest.raises(KeyboardInterrupt):
        curate(dataset, [], out, progress=stop, **how)
    written = sum(pq.read_metadata(path).num_rows for path in (out / ".partial" / "data").glob("*.parquet"))
    left = list((out / ".partial" / "spool").glob("*.clip"))
    assert len(passes_made) == 1 and 0 < written < 10 and len(left) == 10 - written
    assert curate(dataset, [], out, **how).clips == 10 and len(passes_made) == 1


@pytest.mark.parametrize("where", ["spool", "data"])
def test_a_disk_that_is_full_in_the_middle_of_a_shard(tmp_path, where):
    """A real write that fails: the folder is named, nothing half written stays, and the same command resumes the job."""
    dataset = make_dataset(tmp_path / "d", [(12, 48), (48, 84)])
    before, calls = resource.getrlimit(resource.RLIMIT_FSIZE), ["spool", "data"]  # of the sample, and of the shards

    def map_full(jobs):
        made = list(map_here(jobs))
        if calls.pop(0) == where:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # a clip is larger
        yield from made

    partial = tmp_path / "out" / ".partial"
    try:
        says = rf"out/\.partial/{where}: cannot be written to \(File too large\): free space"
        with pytest.raises(DiskError, match=says):
            curate(dataset, [], tmp_path / "out", map_fn=map_full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((partial / "data").iterdir()) and not list(partial.rglob("*.tmp"))
    assert curate(dataset, [], tmp_path / "out", map_fn=map_here).clips == 2


def test_a_dataset_that_cannot_be_read_is_not_blamed_on_the_folder_that_is_written(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path / "d", [(12, 48)])

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error", str(dataset.root))

    monkeypatch.setattr(Dataset, "schema", broken)
    with pytest.raises(OSError, match=f"Input/output error: '{dataset.root}'"):
        curate(dataset, [], tmp_path / "out", map_fn=map_here)


def hold(folder, ready, done):
    with held(folder, "curated dataset", CuratedError):
        ready.set()
        done.wait(60)


def test_a_second_process_is_told_who_is_at_work(tmp_path):
    dataset = make_dataset(tmp_path / "d", [(12, 48)])
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "out" / ".partial", ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(CuratedError, match=f"another process is writing this curated dataset.*process {other.pid}"):
            curate(dataset, [], tmp_path / "out", map_fn=map_here)
    finally:
        done.set()
        other.join()
    assert curate(dataset, [], tmp_path / "out", map_fn=map_here).clips == 1


def test_a_folder_that_cannot_be_locked_is_told(tmp_path, monkeypatch):
    def without_locks(stream, how):
        if str(tmp_path) in str(stream.name):
            raise OSError(errno.ENOLCK, "No locks available")
        real(stream, how)

    real = fcntl.flock
    dataset = make_dataset(tmp_path / "d", [(12, 48)])
    monkeypatch.setattr("fcntl.flock", without_locks)
    with pytest.raises(CuratedError, match=r"its file system has no locks \(No locks available\).*or choose an --out"):
        curate(dataset, [], tmp_path / "out", map_fn=map_here)
