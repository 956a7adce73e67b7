"""Curated shards: same request, same files, whatever happens on the way; and anyone can open them."""

import io
import json
import os
import re
import signal
import threading

import av
import cv2
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from curate.base import child as children
from curate.base.files import write_json
from curate.clip import Clip, Column, Unit, Video
from curate.export.extract import Span
from curate.selection.filters import Filter, SelectionError, parse_filters
from curate.video.identity import fingerprint
from pipelines.curated.curated import CuratedError, CuratedRequest, Work, make_curated
from pipelines.curated.cutting import CutJob, Cutters, cut
from pipelines.dataset import statistics
from pipelines.dataset.dataset import FORMAT, Dataset, Tables, Writer

TABLES = Tables(
    scores=(
        Column("motion_score", pa.float32(), "mean flow", "%/s", "0..", "SVD"),
        Column("text_area", pa.float32(), "share of text", "", "0..1"),
        Column("aesthetic_score", pa.float32(), "none"),
        Column("caption_merged", pa.string(), "LLM | merge"),
        Column("image_embedding", pa.list_(pa.float32()), "embedding"),
        *(Column(name, pa.binary(), "JPEG") for name in ("still_first", "still_middle", "still_last")),
    ),
    facts=(
        Column("duration", pa.float64(), "d", "s"),
        Column("bytes", pa.int64(), "b"),
        Column("keyframes", pa.list_(pa.float64()), "k", "s"),
        Column("fps", pa.float64(), "f"),
        Column("width", pa.int32(), "w"),
        Column("height", pa.int32(), "h"),
    ),
)


def footage(path, seed, n=120, gop=12):
    """4.8 s at 25 frames per second, a keyframe every `gop`."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(
            "libx264", rate=25, options={"g": str(gop), "bf": "2", "x264-params": "scenecut=0:open-gop=0"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(n):
            picture = np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return str(path)


def still(seed):
    picture = np.full((36, 64, 3), np.random.default_rng(seed).integers(0, 256, 3), np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def make_dataset(root, videos=4):
    (root / "src").mkdir(parents=True)
    write_json(
        root / "dataset.json",
        {
            "format": FORMAT,
            "config": {"pack": "embedded", "appearance": {"aesthetic": None}},
            "models": {
                "text_area": {"kind": "easyocr", "weights": [{"model": "CRAFT", "source": "package", "sha256": "ab12"}]}
            },
        },
    )
    writer = Writer(root, TABLES, models={}, shard_clips=20)
    rng = np.random.default_rng(0)
    for v in range(videos):
        path = footage(root / "src" / f"{v}.mp4", v)
        clips = []
        for i in range(10):
            start, end = 12 * i, 12 * i + 12
            values = {
                "motion_score": float(rng.gamma(2, 2)) if rng.random() > 0.1 else None,
                "text_area": float(rng.random() ** 3),
                "caption_merged": f"clip {i}",
                "image_embedding": [0.5, 0.5],
                "still_first": still(i), "still_middle": still(i), "still_last": still(i),
            }  # fmt: skip
            clips.append(Clip(start, end, start / 25, end / 25, start / 25, end / 25, values=values))
        clips[3].errors["captions"] = "ValueError: no"
        facts = {"duration": 4.8, "bytes": os.path.getsize(path), "fps": 25.0, "width": 64, "height": 48}
        facts["keyframes"] = [12 * i / 25 for i in range(10)]
        unit = Unit(Video(path, fingerprint(path)), facts=facts, clips=clips, seconds={"watch": 2.0, "text": 1.0})
        writer.add(unit, stages=["shots"])
    writer.add(
        Unit(Video(str(root / "bad.mp4"), "f" * 16), seconds={"watch": 0.5}).fail("is a text, not a video"),
        stages=["shots"],
    )
    writer.flush()
    return Dataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "annotated")


def map_here(jobs):
    """The jobs one after the other, in this process."""
    return map(cut, jobs)


def curate(dataset, filters, out, *, limits=None, workers=None, map_fn=None, progress=None, **request):
    """make_curated, with the fields of its request and of its work as arguments."""
    work = Work(limits or {}, workers, map_fn, progress)
    return make_curated(dataset, CuratedRequest(filters, **request), out, work)


FILTERS = [Filter("drop_bottom", "motion_score", 25), Filter("drop_top", "text_area", 25)]
SMALL = {"shard_bytes": 20_000, "map_fn": map_here}


@pytest.fixture
def no_pictures(monkeypatch):
    """Tests of the shards need no plots, which take longest."""
    monkeypatch.setattr("pipelines.curated.card.card.plot_scores", lambda *_: [])
    monkeypatch.setattr("pipelines.curated.card.card.contact_sheet", lambda *_: False)


@pytest.fixture(scope="module")
def curated(dataset, tmp_path_factory):
    return curate(dataset, FILTERS, tmp_path_factory.mktemp("out") / "curated", **SMALL)


def shards(out):
    return {path.name: path.read_bytes() for path in sorted((out / "data").iterdir())}


def ids(out):
    return [
        i
        for path in sorted((out / "data").iterdir())
        for i in pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist()
    ]


def test_rows_are_their_bytes(dataset, curated):
    assert curated.clips == curated.selection.kept == len(ids(curated.out)) and not curated.failed
    assert sorted(ids(curated.out)) == curated.selection.kept_ids().to_pylist()
    assert curated.shards > 2 and curated.copied == curated.clips
    for path in sorted((curated.out / "data").iterdir()):
        for row in pq.read_table(path).to_pylist():
            assert row["video"]["path"] == row["clip_id"] + ".mp4"
            with av.open(io.BytesIO(row["video"]["bytes"])) as clip:
                assert len(list(clip.decode(video=0))) == row["num_frames"] == row["end_frame"] - row["start_frame"]
            assert row["still_middle"] and row["image_embedding"] == [0.5, 0.5] and row["cut"] == "copy"
            assert "still_first" not in row and not any(name.startswith("_") for name in row)
            assert row["errors"] == (
                [{"stage": "captions", "reason": "ValueError: no"}] if row["start_frame"] == 36 else []
            )


def test_shards_are_balanced(curated):
    sizes = [len(data) for data in shards(curated.out).values()]
    assert len(sizes) == curated.shards and max(sizes) < 1.6 * min(sizes)


def test_datasets_opens_it(curated):
    rows = datasets.load_dataset(str(curated.out), split="train", streaming=True)
    assert rows.features["video"] == datasets.Video()
    row = next(iter(rows.cast_column("video", datasets.Video(decode=False))))
    assert row["video"]["bytes"][4:8] == b"ftyp" and row["clip_id"] == ids(curated.out)[0]
    assert rows.features["motion_score"].dtype == "float32"


def test_datasets_opens_it_whole(curated, tmp_path):
    rows = datasets.load_dataset(str(curated.out), split="train", cache_dir=str(tmp_path))
    assert rows.num_rows == curated.clips and isinstance(rows.features["video"], datasets.Video)


def test_the_seed_is_the_order(dataset, curated, tmp_path, no_pictures):
    again = curate(dataset, FILTERS, tmp_path / "again", **SMALL)
    assert shards(again.out) == shards(curated.out)
    other = curate(dataset, FILTERS, tmp_path / "other", seed=1, **SMALL)
    assert ids(other.out) != ids(curated.out) and sorted(ids(other.out)) == sorted(ids(curated.out))
    assert ids(curated.out) != sorted(ids(curated.out))


def test_children_give_the_same(dataset, curated, tmp_path, no_pictures):
    made = curate(dataset, FILTERS, tmp_path / "out", shard_bytes=20_000, workers=2)
    assert shards(made.out) == shards(curated.out)


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [0, 9, 19])
def test_interrupted_and_started_again(dataset, curated, tmp_path, after, no_pictures, monkeypatch):
    def stopping(jobs):
        for job in jobs:
            if stopping.done == after:
                raise Stop
            stopping.done += 1
            yield from map_here([job])

    stopping.done = 0
    monkeypatch.setattr("pipelines.curated.plan.planned.SAMPLE_CLIPS", 4)
    out = tmp_path / "out"
    with pytest.raises(Stop):
        curate(dataset, FILTERS, out, shard_bytes=20_000, map_fn=stopping)
    assert not (out / "data").exists() and not (out / "selection.json").exists()
    with pytest.raises(CuratedError, match=r"not finished.*seed"):
        curate(dataset, FILTERS, out, seed=7, **SMALL)
    made = curate(dataset, FILTERS, out, **SMALL)
    assert shards(out) == shards(curated.out) and made.copied == curated.copied
    assert sorted(os.listdir(out)) == ["README.md", "data", "selection.json"]


def test_stopped_before_the_card(dataset, curated, tmp_path, monkeypatch, no_pictures):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("pipelines.curated.curated.write_card", full)
    with pytest.raises(OSError, match="no space"):
        curate(dataset, FILTERS, tmp_path / "out", **SMALL)
    monkeypatch.undo()

    def never(jobs):
        assert not list(jobs)
        return iter(())

    curate(dataset, FILTERS, tmp_path / "out", shard_bytes=20_000, map_fn=never)
    assert shards(tmp_path / "out") == shards(curated.out)


def test_done_is_done_and_another_selection_is_refused(dataset, curated):
    again = curate(dataset, FILTERS, curated.out, **SMALL)
    assert again.already and again.clips == curated.clips
    with pytest.raises(CuratedError, match=r"another selection \(different: filters\); choose another --out"):
        curate(dataset, FILTERS[:1], curated.out, **SMALL)
    assert "\n" not in str(_error(lambda: curate(dataset, FILTERS[:1], curated.out, **SMALL)))


def _error(call):
    with pytest.raises(CuratedError) as caught:
        call()
    return caught.value


def test_other_folders_are_left_alone(dataset, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CuratedError, match="not empty"):
        curate(dataset, FILTERS, tmp_path, **SMALL)
    with pytest.raises(CuratedError, match="is a file"):
        curate(dataset, FILTERS, tmp_path / "mine.txt", **SMALL)


def test_nothing_kept_says_where_they_went(dataset, tmp_path):
    filters = [Filter("drop_bottom", "motion_score", 25), Filter("min", "text_area", 2)]
    with pytest.raises(
        CuratedError, match=r"keeps none of 40 clips: after drop_bottom .* remain; after min text_area=2 0 remain"
    ):
        curate(dataset, filters, tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


def test_a_pack_without_the_model_is_an_error_before_work(dataset, tmp_path):
    says = "aesthetic_score is null for every clip .no model for it ran: pack embedded; annotate with"
    with pytest.raises(SelectionError, match=says):
        curate(dataset, parse_filters([{"drop_bottom": {"aesthetic_score": 25}}]), tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_gone_costs_its_clips(tmp_path, no_pictures):
    data = make_dataset(tmp_path / "annotated", videos=2)
    os.unlink(tmp_path / "annotated" / "src" / "1.mp4")
    made = curate(data, [], tmp_path / "out", workers=2)
    assert made.clips == 10 and len(made.failed) == 10
    assert all("no such file" in failure["reason"] for failure in made.failed)
    about = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert about["curated"]["failed"] == made.failed and len(ids(tmp_path / "out")) == 10
    os.unlink(tmp_path / "annotated" / "src" / "0.mp4")
    with pytest.raises(CuratedError, match="not one of 20 clips could be cut"):
        curate(data, [], tmp_path / "none", **SMALL)


@pytest.fixture
def naughty(monkeypatch):
    """Children that cut do what `WINNOW_TEST` says, to the clip that it names: "kill 00000012 /log" kills each time."""
    code = """
import os, signal, time, pipelines.curated.cutting as cutting
real = cutting.cut
def cut(job):
    what, clip, log = os.environ.get("WINNOW_TEST", "no clip log").split()
    if job.clip_id.endswith(clip):
        with open(log, "a") as stream: stream.write("x")
        if what == "kill" or (what == "mixed" and os.path.getsize(log) == 1): os.kill(os.getpid(), signal.SIGKILL)
        if what in ("abort", "mixed"): os.abort()
        if what == "sleep": time.sleep(60)
        if what == "grow": kept = [bytearray(50_000_000) for _ in range(100)]
    return real(job)
cutting.cut = cut
"""
    boot = children.BOOT.split("; ", 2)
    monkeypatch.setattr(children, "BOOT", "; ".join(boot[:2]) + "\n" + code + boot[2])
    return monkeypatch


def jobs_of(dataset):
    path = str(dataset.root / "src" / "0.mp4")
    return [CutJob(f"{12 * i:08d}", path, Span(12 * i, 12 * i + 12, i * 0.48, i * 0.48 + 0.48)) for i in range(6)]


def test_a_child_that_is_killed_or_stopped_costs_a_second_try(dataset):
    jobs = jobs_of(dataset)
    for signals in ((signal.SIGSTOP, signal.SIGKILL), (signal.SIGSTOP,)):
        with Cutters(1) as cutters:
            (child,) = cutters.children
            child.timeout = 3.0
            child.cut(jobs[0])
            pid = child.pid
            os.kill(pid, signals[0])  # so that it is at work when it dies, or until its time is over
            for then in signals[1:]:
                threading.Timer(0.5, os.kill, [pid, then]).start()
            results = list(cutters(jobs))
            assert child.pid != pid and [r.start_frame for r in results] == [0, 12, 24, 36, 48, 60]


@pytest.mark.parametrize(
    "what, reason, tries",
    [
        ("abort", r"the decoder crashed \(SIGABRT\)", 2),
        ("sleep", r"took longer than 4 s", 2),
        ("grow", r"needs more than 1 GB of memory \(decode\.memory_gb\)", 2),
        ("mixed", r"the decoder crashed \(SIGABRT\)", 3),  # killed, and then of its own doing
    ],
)
def test_what_ends_alike_twice_is_the_clips_reason(dataset, naughty, tmp_path, what, reason, tries):
    log = tmp_path / "log"
    naughty.setenv("WINNOW_TEST", f"{what} 00000012 {log}")
    with Cutters(2, timeout=4.0 if what == "sleep" else 60.0, memory_gb=1.0) as cutters:
        results = list(cutters(jobs_of(dataset)))
    assert [isinstance(r, str) for r in results] == [False, True, False, False, False, False]
    assert re.search(f"frames 12 to 24 cannot be cut: {reason}", results[1]) and len(log.read_text()) == tries


def test_what_the_machine_does_twice_stops_the_job_and_the_same_command_resumes_it(
    dataset, naughty, tmp_path, no_pictures
):
    naughty.setenv("WINNOW_TEST", f"kill 00000012 {tmp_path / 'log'}")
    with pytest.raises(
        CuratedError, match=r"killed from outside \(SIGKILL.*, twice: free memory.*the same command resumes it"
    ):
        curate(dataset, [], tmp_path / "out", shard_bytes=20_000, workers=2)
    assert not list((tmp_path / "out" / ".partial" / "data").iterdir()) and not (tmp_path / "out" / "data").exists()
    naughty.delenv("WINNOW_TEST")
    made = curate(dataset, [], tmp_path / "out", shard_bytes=20_000, workers=2)
    assert (made.already, made.clips, made.failed) == (False, 40, [])


def test_a_remade_dataset_is_another_one(tmp_path, no_pictures):
    data = make_dataset(tmp_path / "annotated", videos=1)
    out = tmp_path / "out"
    curate(data, [], out, **SMALL)
    about = data.about
    for change in (
        {"stages": {"motion": {"fps": 4.0}}},
        {"models": {"text_area": {"kind": "rapidocr"}}},
        {"winnow": "99.0"},
    ):
        write_json(data.root / "dataset.json", about | change)
        with pytest.raises(CuratedError, match="the dataset has changed since"):
            curate(Dataset(data.root), [], out, **SMALL)
    write_json(data.root / "dataset.json", about)
    assert curate(Dataset(data.root), [], out, **SMALL).already


def test_the_limits_of_the_decode_are_those_of_the_cut(dataset, tmp_path, no_pictures):
    with pytest.raises(CuratedError, match=r"more than decode\.max_pixels = 100"):
        curate(dataset, FILTERS, tmp_path / "none", limits={"max_pixels": 100}, **SMALL)
    limits = {"max_pixels": 128 * 48, "timeout_seconds": 30.0, "memory_gb": 2.0}
    made = curate(dataset, FILTERS, tmp_path / "out", shard_bytes=20_000, limits=limits, workers=1)
    assert made.clips == made.selection.kept


def test_where_no_child_can_start_no_clip_is_blamed(dataset, tmp_path, no_pictures, monkeypatch):
    monkeypatch.setattr(children, "START_RETRY_SECONDS", (0.05,))
    with pytest.raises(CuratedError, match=r"cannot start within its 0\.001 GB of memory .*: raise decode\.memory_gb"):
        curate(dataset, FILTERS, tmp_path / "out", limits={"memory_gb": 0.001}, workers=2)
    made = curate(dataset, FILTERS, tmp_path / "out", workers=2)
    assert made.clips == made.selection.kept and not made.failed


def test_asked_for_forms(dataset, tmp_path, no_pictures):
    made = curate(dataset, FILTERS, tmp_path / "out", options={"size": 32, "fps": 12.5, "codec": None}, **SMALL)
    row = pq.read_table(sorted((made.out / "data").iterdir())[0]).to_pylist()[0]
    assert (row["height"], row["fps"], row["cut"], row["num_frames"]) == (32, 12.5, "transcode", 6)


def test_the_card_says_what_was_kept_and_how(curated):
    text = (curated.out / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    for step in curated.selection.steps:
        assert f"| `{step.name}` | `{step.condition}` | {step.failing:,} | {step.null:,} |" in text
    assert "| `motion_score` | float | mean flow | %/s | 0.. | SVD |" in text and "LLM \\| merge" in text
    assert "| `text_area` | CRAFT | package | `ab12` |" in text
    for name in ("overview.png", "motion_score.png", "text_area.png"):
        assert f"(plots/{name})" in text
        picture = cv2.imread(str(curated.out / "plots" / name))
        assert picture is not None and picture.std() > 5
    assert not (curated.out / "plots" / "aesthetic_score.png").exists()  # has no values


def test_statistics_of_a_dataset(dataset):
    found = statistics.read(dataset.root, FILTERS)
    assert (found.kind, found.videos, found.clips) == ("annotated", {"ok": 4, "failed": 1}, 40)
    assert found.failures == [("video", "is a text, not a video", 1), ("captions", "ValueError: no", 4)]
    assert found.seconds == [("watch", 8.5, 8.5 / 12.5), ("text", 4.0, 4.0 / 12.5)]
    scores = {score.column: score for score in found.scores}
    values = pa.concat_tables(pq.read_table(p, columns=["text_area"]) for p in dataset.files("clips"))[
        "text_area"
    ].to_numpy()
    np.testing.assert_allclose(scores["text_area"].quantiles, np.quantile(values, statistics.QUANTILES), rtol=1e-5)
    assert scores["aesthetic_score"].nulls == 40
    text = printed(found)
    assert "is a text, not a video" in text and "drop_bottom motion_score=25%" in text


def test_statistics_of_a_curated_one(curated):
    found = statistics.read(curated.out)
    assert (found.kind, found.clips, found.hours) == ("curated", curated.clips, pytest.approx(curated.hours))
    assert found.funnel == curated.selection.to_dict()["funnel"]
    assert "motion_score" in printed(found)


def printed(found):
    console = Console(width=140, record=True, file=io.StringIO())
    statistics.show(found, console)
    return console.export_text()


def test_statistics_of_something_else(tmp_path):
    with pytest.raises(statistics.StatisticsError, match="neither"):
        statistics.read(tmp_path)
