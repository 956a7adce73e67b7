"""From lists and folders to rows and back: the job end to end."""

import io
import json

import duckdb
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from curate.parts import Parts
from pipelines.annotation.annotate import annotate
from pipelines.annotation.planning.recorded import RecordedUnits
from pipelines.annotation.pools import Place
from pipelines.cli.progress import print_summary
from pipelines.config import load
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.statistics import read as statistics
from pipelines.demo import write
from pipelines.sources import folders
from tests.footage import pan
from tests.pipelines.test_curated import curate

FAST = ["execution.executor=inline", "decode.isolate=false"]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two films of two scenes, a cut at frame 40 of 80, and lists of them."""
    folder = tmp_path_factory.mktemp("films")
    for name in ("v", "w"):
        write(folder / f"{name}.mp4", [*pan(40, 2, seed=ord(name)), *pan(40, 4, seed=ord(name) + 50)])
    spans = "path,start,end,caption,by\nv.mp4,0.2,2.4,first,x\nv.mp4,0.2,3.2,second,y\nv.mp4,7,9,beyond,z\nw.mp4,0,1.6,third,x\n,0,1,lost,x\n"
    (folder / "spans.csv").write_text(spans)
    captions = [{"path": "v.mp4", "caption": text} for text in ("a", "b")] + [
        {"path": "w.mp4", "caption": ["c"], "id": 4}
    ]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)))
    return folder


def job(out, watcher, *sources, stages=("motion", "stills"), **options):
    return annotate(
        [str(source) for source in sources], out, load("quickstart", FAST), place=Place("inline"), watcher=watcher,
        stages=stages, **options,
    )  # fmt: skip


def rows(out, columns, table="clips"):
    dataset = Dataset(out)
    sql, order = (dataset.clips_sql, "clip_id") if table == "clips" else (dataset.videos_sql, "video_path, unit")
    return duckdb.sql(f"SELECT {columns} FROM {sql} ORDER BY {order}").fetchall()


def by_video(out, columns):
    return sorted(rows(out, f"parse_filename(video_path), {columns}"))


def test_spans_are_the_clips_and_their_bytes(films, tmp_path, watcher):
    out = tmp_path / "d"
    summary = job(out, watcher, films / "spans.csv")
    made = by_video(out, "start_frame, end_frame, bounds, source_captions, source_columns->>'by'")
    assert made == [
        ("v.mp4", 5, 60, "list", ["first"], "x"),
        ("v.mp4", 5, 80, "list", ["second"], "y"),
        ("w.mp4", 0, 40, "list", ["third"], "x"),
    ]
    videos = rows(out, "parse_filename(video_path), status, error, warnings, clips", "videos")
    assert [row[:2] for row in videos] == [("spans.csv: entry 5", "failed"), ("v.mp4", "ok"), ("w.mp4", "ok")]
    assert "names no video" in videos[0][2] and videos[0][3:] == ([], 0)
    assert videos[1][3] == [
        "spans.csv: entry 3: the span 7 to 9 s holds no picture (the file ends at 3.20 s, after 80 frames): no clip"
    ]
    assert (summary.videos, summary.failed, summary.warned) == (3, 1, 1)
    curated = curate(Dataset(out), [], tmp_path / "c", workers=1)
    cut = duckdb.sql(f"SELECT num_frames, source_captions, bounds FROM '{tmp_path}/c/data/*.parquet' ORDER BY clip_id")
    assert curated.clips == 3 and sorted(row[0] for row in cut.fetchall()) == [40, 55, 75]


def test_a_pass_that_is_repeated_finds_the_spans_again(films, tmp_path, watcher):
    job(tmp_path / "d", watcher, films / "spans.csv", stages=["stills"])
    before = by_video(tmp_path / "d", "clip_id, source_captions, source_columns, still_first")
    job(tmp_path / "d", watcher, stages=["motion"])
    assert by_video(tmp_path / "d", "clip_id, source_captions, source_columns, still_first") == before
    assert all(score is not None for (score,) in rows(tmp_path / "d", "motion_score"))


def test_what_a_list_says_later_reaches_the_rows(films, tmp_path, watcher):
    out = tmp_path / "d"
    job(out, watcher, films / "v.mp4", films / "w.mp4")
    scores = rows(out, "clip_id, motion_score, still_middle")
    decoded = rows(out, "seconds['decode']", "videos")
    job(out, watcher, films / "captions.jsonl")
    assert rows(out, "clip_id, motion_score, still_middle") == scores  # nothing was computed again
    assert rows(out, "seconds['decode']", "videos") == decoded
    listed = {
        (name, tuple(texts), columns) for name, texts, columns in by_video(out, "source_captions, source_columns")
    }
    assert listed == {("v.mp4", ("a", "b"), None), ("w.mp4", ("c",), '{"id": 4}')}
    again = job(out, watcher, films / "captions.jsonl")
    assert (again.videos, again.already) == (0, 2)
    job(out, watcher, films / "spans.csv")  # other clips: found anew, and the old ones are gone
    assert [row[1:4] for row in by_video(out, "start_frame, end_frame, bounds")] == [
        (5, 60, "list"), (5, 80, "list"), (0, 40, "list"),
    ]  # fmt: skip


def test_other_words_for_the_same_spans_reach_the_rows_without_decoding(films, tmp_path, watcher):
    out, listed = tmp_path / "d", tmp_path / "l.jsonl"
    path = str(films / "v.mp4")

    def said(*rows):
        listed.write_text("\n".join(json.dumps({"path": path, **row}) for row in rows))
        return job(out, watcher, listed)

    said(
        {"start": 0.2, "end": 2.4, "caption": "first", "by": "x"},
        {"start": 0.2, "end": 2.39, "caption": "as long"},  # the same frames: one clip with both captions
        {"start": 1, "end": 3.2, "caption": "second", "by": "y"},
        {"start": 7, "end": 9, "caption": "beyond"},
    )
    columns = "start_frame, end_frame, source_captions, source_columns->>'by', motion_score, still_middle"
    before, spent = rows(out, columns), rows(out, "seconds", "videos")
    assert [row[:4] for row in before] == [(5, 60, ["first", "as long"], "x"), (25, 80, ["second"], "y")]
    said(  # in another order, with one caption corrected, one more, one gone, and other columns
        {"start": 1, "end": 3.2, "caption": "corrected"},
        {"start": 1, "end": 3.2, "caption": "once more"},
        {"start": 0.2, "end": 2.4, "caption": "first", "by": "z"},
        {"start": 0.2, "end": 2.39},
        {"start": 7, "end": 9, "caption": "beyond"},
    )
    after = rows(out, columns)
    assert [row[:4] for row in after] == [(5, 60, ["first"], "z"), (25, 80, ["corrected", "once more"], None)]
    assert [row[4:] for row in after] == [row[4:] for row in before]
    assert rows(out, "seconds", "videos") == spent  # nothing was decoded
    assert (job(out, watcher, listed).clips, len(rows(out, "unit", "videos"))) == (0, 1)
    (films / "whole.jsonl").write_text(json.dumps({"path": path, "caption": "all"}))
    job(out, watcher, films / "whole.jsonl")  # says nothing of spans: they stay, with their words
    assert [row[:4] for row in rows(out, columns)] == [row[:4] for row in after]
    assert rows(out, "source_captions", "videos") == [(["all"],)] and rows(out, "seconds", "videos") == spent
    job(out, watcher, listed)
    assert rows(out, columns) == after and rows(out, "seconds", "videos") == spent
    said({"start": 1, "end": 3, "caption": "corrected"})
    assert rows(out, "start_frame, end_frame") == [(25, 75)] and rows(out, "seconds", "videos") != spent


def test_a_repaired_list_leaves_no_failed_row(films, tmp_path, watcher):
    (tmp_path / "w.mp4").write_bytes((films / "w.mp4").read_bytes())
    listed, other = tmp_path / "l.csv", tmp_path / "other.csv"
    rest = "w.mp4,fine\n"
    listed.write_text(f"path,caption\n,lost\n{rest},lost too\n,third\n")
    other.write_text(f"path,caption\n,lost\n{rest}")
    out = tmp_path / "d"
    assert job(out, watcher, listed, other, stages=["stills"]).failed == 4
    clips = rows(out, "clip_id, still_first")
    named = "parse_filename(video_path), status"
    listed.write_text(f"path,caption\n{rest},lost too\n")  # two are taken out, and one is now the second entry
    again = job(out, watcher, listed, stages=["stills"])
    assert [row[0] for row in rows(out, named, "videos")] == ["l.csv: entry 2", "other.csv: entry 1", "w.mp4"]
    assert (again.failed, again.failed_before) == (1, 0)
    assert rows(out, "clip_id, still_first") == clips
    listed.write_text(f"path,caption\n{rest}")
    other.write_text(f"path,caption\n{rest}")
    job(out, watcher, listed, stages=["stills"])
    assert [row[0] for row in rows(out, named, "videos")] == ["other.csv: entry 1", "w.mp4"]
    summary = job(out, watcher, listed, other, stages=["stills"])
    assert rows(out, named, "videos") == [("w.mp4", "ok")] and not summary.anything_failed
    assert rows(out, "clip_id, still_first") == clips


def test_what_a_row_is_of_is_a_column_and_is_known_of_rows_without_it(films, tmp_path, watcher):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "list entry 1.mp4"):
        (folder / name).write_bytes((films / "v.mp4").read_bytes() if name[0] != "l" else b"folder may not be read")
    (folder / "disk").symlink_to(tmp_path / "nowhere")
    (tmp_path / "l.csv").write_text(f"path\n{folder}/a.mp4\n rtsp://b/x.mp4\n")
    out = tmp_path / "d"
    job(out, watcher, folder, tmp_path / "l.csv", stages=["stills"])
    kinds = "parse_filename(video_path), kind, parse_filename(duplicate_of), status"
    expected = [
        ("a.mp4", "file", None, "ok"), ("b.mp4", "file", "a.mp4", "duplicate"), ("disk", "link", None, "failed"),
        ("l.csv: entry 2", "entry", None, "failed"), ("list entry 1.mp4", "file", None, "failed"),
    ]  # fmt: skip
    assert sorted(rows(out, kinds, "videos")) == expected
    known = RecordedUnits(Dataset(out), [], False, Parts())
    for path in out.glob("videos/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["kind", "duplicate_of", "modified"]), path)
    old = RecordedUnits(Dataset(out), [], False, Parts())
    copies = old.ledger.copies(f"{folder}/a.mp4")
    assert (copies, list(old.videos()), old.contents_of(f"{folder}/b.mp4")) == (
        known.ledger.copies(f"{folder}/a.mp4"), list(known.videos()), known.contents_of(f"{folder}/a.mp4"),
    ) and copies  # fmt: skip
    assert [video.path for video in old.videos()] == [
        f"{folder}/{name}" for name in ("a.mp4", "b.mp4", "list entry 1.mp4")
    ]


def test_a_folder_that_could_not_be_read_and_then_can(films, tmp_path, watcher, monkeypatch):
    (tmp_path / "in" / "secret").mkdir(parents=True)
    for name, place in (("v.mp4", "in"), ("w.mp4", "in/secret")):
        (tmp_path / place / name).write_bytes((films / name).read_bytes())
    real = folders.os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    out = tmp_path / "d"
    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "scandir", scandir)
        summary = job(out, watcher, tmp_path / "in", stages=["stills"])
        assert (summary.failed, summary.anything_failed) == (1, True)
        again = job(out, watcher, tmp_path / "in", stages=["stills"])
        assert (again.videos, again.already, again.failed_before) == (0, 2, 1)
        assert (
            job(out, watcher, stages=["stills"], retry_failed=True).failed == 0
        )  # the folder is not opened as a video
    found = rows(out, "parse_filename(video_path), status, error", "videos")
    assert sorted(row[:2] for row in found) == [("secret", "failed"), ("v.mp4", "ok")]
    assert any("folder may not be read (permission denied)" in (row[2] or "") for row in found)
    (tmp_path / "in" / "secret" / "w.mp4").rename(tmp_path / "w.mp4")
    job(out, watcher, tmp_path / "in", stages=["stills"])  # nothing in it, but it can be read
    assert rows(out, "parse_filename(video_path), status", "videos") == [("v.mp4", "ok")]
    (tmp_path / "w.mp4").rename(tmp_path / "in" / "secret" / "w.mp4")
    job(out, watcher, tmp_path / "in", stages=["stills"])
    assert sorted(rows(out, "parse_filename(video_path), status", "videos")) == [("v.mp4", "ok"), ("w.mp4", "ok")]


def test_the_spans_of_a_long_video_are_not_cut_at_its_units(tmp_path, watcher):
    from fractions import Fraction

    import av

    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 320, 180, "yuv420p", 10
        for number, image in enumerate(pan(100, 2, height=180, width=320)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    (tmp_path / "l.csv").write_text("path,start,end\nlong.mp4,0.5,3.5\n")
    options = load("quickstart", [*FAST, "decode.unit_seconds=1"])
    arguments = {"place": Place("inline"), "watcher": watcher, "stages": ["shots"]}
    annotate([str(path)], tmp_path / "plain", options, **arguments)
    assert len(rows(tmp_path / "plain", "unit", "videos")) == 4
    annotate([str(tmp_path / "l.csv")], tmp_path / "d", options, **arguments)
    assert rows(tmp_path / "d", "unit, start_frame, end_frame") == [(0, 13, 88)]
    annotate([str(tmp_path / "l.csv")], tmp_path / "plain", options, **arguments)  # four units become one
    assert rows(tmp_path / "plain", "unit, start_frame, end_frame") == [(0, 13, 88)]
    assert rows(tmp_path / "plain", "unit, units", "videos") == [(0, 1)]


def test_footage_is_one_number_everywhere(films, tmp_path, watcher):
    summary = job(tmp_path / "d", watcher, films / "v.mp4", films / "w.mp4", stages=["shots"])
    found = statistics(tmp_path / "d")
    assert abs(summary.footage - 6.4) < 0.01 and abs(found.footage * 3600 - summary.footage) < 1e-6
    summary.skipped.add(folders.HIDDEN, "/x/._v.mp4")
    console = Console(file=io.StringIO(), width=120)
    print_summary(console, summary, "d")
    lines = [line.split("  ", 1) for line in console.file.getvalue().splitlines()]
    told = {name.strip(): value.strip() for name, value in (line for line in lines if len(line) == 2)}
    assert (told["footage"], told["skipped"]) == ("6.4 s", "1 hidden ('._v.mp4')")
