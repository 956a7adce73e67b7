import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.clip import Unit
from curate.isolation import pack, unpack
from pipelines.dataset import Tables
from pipelines.sources import SourceError, find_videos

TABLES = Tables(scores=(), facts=())


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.MKV", "deep/c.webm", "notes.txt", "deep/poster.jpg", "x 'y'\nz.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(found, folder):
    return [video.path.removeprefix(f"{folder}/") for video in found.videos]


def test_a_folder_is_searched_and_what_is_passed_over_is_counted(folder):
    found = find_videos([str(folder)])
    assert names(found, folder) == ["a.MKV", "b.mp4", "x 'y'\nz.mp4", "deep/c.webm"]
    assert found.passed_over == {".txt": 1, ".jpg": 1}


def test_each_path_once_whichever_way_it_is_named(folder):
    found = find_videos([f"{folder}/b.mp4", f"{folder}/*.mp4", str(folder), f"{folder}/deep/../b.mp4"])
    assert sorted(names(found, folder)) == ["a.MKV", "b.mp4", "deep/c.webm", "x 'y'\nz.mp4"]


def test_lists_carry_captions_and_other_columns(folder):
    rows = [
        {"video": "b.mp4", "caption": "a bee", "licence": "cc", "n": 3},
        {"video": str(folder / "gone.mp4"), "caption": None},
    ]
    (folder / "l.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "l.csv").write_text("path,text,licence\nb.mp4,a bee,cc\n")
    pq.write_table(pa.Table.from_pylist(rows), folder / "l.parquet")
    (folder / "l.txt").write_text("# mine\nb.mp4\n\ndeep/c.webm\n")
    for name in ("l.jsonl", "l.parquet"):
        first, second = find_videos([str(folder / name)]).videos
        assert (first.path, first.caption, first.columns) == (str(folder / "b.mp4"), "a bee", {"licence": "cc", "n": 3})
        assert second.path == str(folder / "gone.mp4") and second.caption is None  # it ends as a failed row
    (csv,) = find_videos([str(folder / "l.csv")]).videos
    assert (csv.caption, csv.columns) == ("a bee", {"licence": "cc"})
    assert names(find_videos([str(folder / "l.txt")]), folder) == ["b.mp4", "deep/c.webm"]


def test_errors_name_the_source_and_the_mend(folder):
    with pytest.raises(SourceError, match=r"nowhere: no such file"):
        find_videos(["nowhere"])
    (folder / "bad.jsonl").write_text("{]")
    with pytest.raises(SourceError, match=r"bad.jsonl: cannot be read"):
        find_videos([str(folder / "bad.jsonl")])
    (folder / "cols.csv").write_text("name,caption\nb.mp4,x\n")
    with pytest.raises(SourceError, match=r"cols.csv: entry 1 names no video.*path"):
        find_videos([str(folder / "cols.csv")])
    (folder / "empty").mkdir()
    with pytest.raises(SourceError, match="no videos in"):
        find_videos([str(folder / "empty")])


def test_values_that_no_table_holds_cost_no_job(folder):
    lines = [
        r'{"path": "b.mp4", "caption": "bad \ud83d emoji", "note": ["\udc00"], "k\ud800": 1}',
        '{"path": "a.MKV", "id": 123456789012345678901234567890, "near": 9223372036854775807, "score": NaN}',
    ]
    (folder / "l.jsonl").write_text("\n".join(lines))
    day = datetime.datetime(2020, 1, 2, 3, 4, 5)
    pq.write_table(pa.table({"path": ["deep/c.webm"], "day": [day], "data": [b"\xff"]}), folder / "l.parquet")
    found = find_videos([str(folder / "l.jsonl"), str(folder / "l.parquet")])
    first, second, third = found.videos
    assert (first.caption, first.columns) == ("bad \ufffd emoji", {"note": ["\ufffd"], "k\ufffd": 1})
    assert second.columns == {"id": "123456789012345678901234567890", "near": 2**63 - 1}
    assert third.columns == {"day": "2020-01-02 03:04:05", "data": "b'\\xff'"}
    for video in found.videos:  # the way into a decoding process, and into a table
        assert unpack(pack(Unit(video).pack())) and TABLES.video_row(Unit(video))["source_columns"].encode()


@pytest.mark.parametrize("name", [r"a\u0000.mp4", r"\ud83d.mp4"])
def test_what_cannot_be_a_file_name_is_named(folder, name):
    (folder / "l.jsonl").write_text('{"path": "b.mp4"}\n{"path": "' + name + '"}')
    with pytest.raises(SourceError, match=r"l.jsonl: entry 2: '.*mp4' cannot be a file name") as caught:
        find_videos([str(folder / "l.jsonl")])
    assert str(caught.value).isprintable()


def test_a_row_with_more_fields_than_the_header_is_named(folder):
    (folder / "l.csv").write_text("path,caption\nb.mp4,a bee\na.MKV,a cat, asleep\n")
    with pytest.raises(SourceError, match=r"l.csv: line 3 has 1 more fields than the header: .*double quotes"):
        find_videos([str(folder / "l.csv")])
