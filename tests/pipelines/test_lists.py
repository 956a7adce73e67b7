"""Lists as others write them, each with its right rows."""

import csv
import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.base.child import pack, unpack
from curate.clip import Unit
from pipelines.dataset.dataset import Tables
from pipelines.sources.sources import InputError, find_videos
from pipelines.sources.spans import parsed_list, seconds_of

TABLES = Tables(scores=(), facts=())
ODD = 'two\nlines, "q" \U0001f600'


@pytest.fixture
def folder(tmp_path):
    for name in ("v.mp4", "w.mkv"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def read(folder, name, content=None, store=None):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content, encoding="utf-8", newline="")
    return find_videos([str(path)], store)


def said(found, folder):
    return [(video.path.removeprefix(f"{folder}/"), video.captions, video.columns) for video in found.videos]


HELLO = [("v.mp4", ["hello"], {})]
TWO = [("v.mp4", ["a", "b"], {}), ("w.mkv", ["c"], {})]
FORMS = {
    "bom and crlf.csv": ('\ufeffpath,caption\r\nv.mp4,"two\nlines, ""q"" \U0001f600"\r\n', [("v.mp4", [ODD], {})]),
    "utf16.csv": ("path,caption\r\nv.mp4,hello\r\n".encode("utf-16"), HELLO),
    "semicolons.csv": ("path;caption\nv.mp4;hello\n", HELLO),
    "semicolons with commas.csv": ("caption;path\na, b, c;v.mp4\n", [("v.mp4", ["a, b, c"], {})]),
    "pipes.csv": ("path|caption\nv.mp4|hello\n", HELLO),
    "tabs.csv": ("path\tcaption\nv.mp4\thello\n", HELLO),
    "tabs.tsv": ("path\tcaption\nv.mp4\thello\n", HELLO),
    "unquoted.tsv": ('path\tcaption\nv.mp4\t"Hi" he said\nw.mkv\t"\n', [("v.mp4", ['"Hi" he said'], {}), ("w.mkv", ['"'], {})]),
    "one column.csv": ("Path\nv.mp4\n", [("v.mp4", [], {})]),
    "upper.csv": (" Path , Caption \nv.mp4,hello\n", HELLO),
    "python lists.csv": ("path,captions\nv.mp4,\"['a', 'b']\"\nw.mkv,c\n", TWO),
    "short rows.csv": ("path,caption,n\nv.mp4,hello\n", HELLO),
    "array.json": ('[{"path": "v.mp4", "cap": ["hello"]}]', HELLO),
    "array.jsonl": ('[\n {\n  "path": "v.mp4",\n  "caption": "hello"\n }\n]', HELLO),
    "lines.json": ('{"path": "v.mp4", "caption": ["a", "b"]}\n{"path": "w.mkv", "caption": "c"}\n', TWO),
    "lines.ndjson": ('{"path": "v.mp4", "caption": ["a", "b"]}\r\n\r\n{"path": "w.mkv", "caption": "c"}', TWO),
    "pretty.jsonl": ('{\n "path": "v.mp4", "caption": ["a", "b"]\n}\n{\n "path": "w.mkv", "caption": "c"\n}', TWO),
    "one row.jsonl": ('{"video": "v.mp4", "prompt": "hello"}', HELLO),
    "list within.json": ('{"info": {"n": 1}, "videos": [{"file": "v.mp4", "text": "hello"}]}', HELLO),
    "map.json": ('{"v.mp4": "hello"}', HELLO),
    "map of lists.json": ('{"v.mp4": ["a", "b"], "w.mkv": {"caption": "c"}}', TWO),
    "strings.json": ('["v.mp4", "w.mkv"]', [("v.mp4", [], {}), ("w.mkv", [], {})]),
    "columns.json": ('{"path": ["v.mp4", "w.mkv"], "caption": [["a", "b"], "c"]}', TWO),
    "pandas.json": ('{"path": {"0": "v.mp4", "1": "w.mkv"}, "caption": {"0": ["a", "b"], "1": "c"}}', TWO),
    "objects.json": ('[{"path": "v.mp4", "captions": [{"caption": "a"}, {"text": "b"}]}, {"path": "w.mkv", "caption": "c"}]', TWO),
    "plain.txt": ("# mine\r\nv.mp4\r\n\r\nw.mkv\r\n", [("v.mp4", [], {}), ("w.mkv", [], {})]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms(folder, name):
    content, rows = FORMS[name]
    found = read(folder, name, content)
    assert said(found, folder) == rows and not found.refused


@pytest.mark.parametrize(
    "head", ["path", "Path", "video", "Video Path", "video_path", "file", "filename", "file-name", "FILEPATH"]
)
@pytest.mark.parametrize("text", ["caption", "Text", "PROMPT", "description"])
def test_heads(folder, head, text):
    assert said(read(folder, "l.csv", f"{text},{head},licence\nhello,v.mp4,cc\n"), folder) == [
        ("v.mp4", ["hello"], {"licence": "cc"})
    ]


def test_several_captions_of_a_video_are_all_kept_in_order(folder):
    rows = [
        {"video": "v.mp4", "caption": "a", "by": "x", "n": 1},
        {"video": "w.mkv", "caption": ["b", "c"]},
        {"video": str(folder / "v.mp4"), "caption": "d", "by": "x", "n": 2},
        {"video": "v.mp4", "caption": "a", "by": "x"},
    ]
    found = read(folder, "l.jsonl", "\n".join(map(json.dumps, rows)))
    assert said(found, folder) == [
        ("v.mp4", ["a", "d", "a"], {"by": "x", "n": [1, 2, None]}),
        ("w.mkv", ["b", "c"], {}),
    ]
    more = find_videos([str(folder / "v.mp4"), str(folder / "l.jsonl"), str(folder), str(folder / "l.jsonl")])
    assert said(more, folder) == said(found, folder)  # a list is read once, and where it stands does not matter
    row = TABLES.video_row(Unit(found.videos[0]))
    assert (row["source_caption"], row["source_captions"]) == ("a", ["a", "d", "a"])


def test_spans(folder):
    text = "path;start;end;caption;who\nv.mp4;0;4,5;first;x\nv.mp4;00:00:04.500;0:08;second;y\nv.mp4;8;;third;\nv.mp4;0;4,5;again;x\nv.mp4;;;whole;\n"
    (video,) = read(folder, "spans.csv", text).videos
    assert [(s.start, s.end, s.captions, s.columns) for s in video.spans] == [
        (0.0, 4.5, ["first", "again"], {"who": "x"}),
        (4.5, 8.0, ["second"], {"who": "y"}),
        (8.0, None, ["third"], {}),
    ]
    assert video.captions == ["whole"] and video.spans[1].where == "spans.csv: entry 2"
    (video,) = read(folder, "f.jsonl", '{"path": "v.mp4", "start_frame": 10, "end_frame": "20", "text": "x"}').videos
    assert [(s.start_frame, s.end_frame, s.captions) for s in video.spans] == [(10, 20, ["x"])]
    (video,) = read(
        folder, "m.json", '{"v.mp4": [{"span": [1, "2.5"], "caption": "x"}, {"begin": "soon", "stop": 3}]}'
    ).videos
    assert (video.spans[0].start, video.spans[0].end) == (1, 2.5) and "'soon' is no time" in video.spans[1].problem
    (video,) = read(folder, "ms.csv", "path,start_ms,end_ms\nv.mp4,500,1500\n").videos
    assert (video.spans[0].start, video.spans[0].end) == (0.5, 1.5)
    assert Unit.unpack(Unit(video).pack()).video == video


AB = [((0, 5, ["a"]), (5, 9, ["b"])), []]
SPANS = {  # form: what the row says, beside its path; the spans with their captions, and the captions of the video
    "two pairs": ({"timestamps": [[0, 5], [5, 9]], "sentences": ["a", "b"]}, *AB),
    "three pairs": (
        {"timestamps": [[0, 5], [5, 9], [9, 12.5]], "sentences": ["a", "b", "c"]},
        ((0, 5, ["a"]), (5, 9, ["b"]), (9, 12.5, ["c"])), [],
    ),
    "one pair in a list": ({"timestamps": [["0:01", "0:02.5"]], "caption": ["a", "b"]}, ((1, 2.5, ["a", "b"]),), []),
    "several captions each": ({"segments": [[0, 5], [5, 9]], "captions": [["a", "x"], ["b"]]}, ((0, 5, ["a", "x"]), (5, 9, ["b"])), []),
    "a caption is empty": ({"spans": [[0, 5], [5, 9]], "captions": ["", "b"]}, ((0, 5, []), (5, 9, ["b"])), []),
    "one caption for all": ({"spans": [[0, 5], [5, 9]], "caption": "all"}, ((0, 5, []), (5, 9, [])), ["all"]),
    "pairs as text, in Python's form": (
        {"timestamp": "[['0:00:00.000','0:00:05.130'], ['0:00:06', '0:00:09']]", "caption": "['it\\'s a', \"b's\"]"},
        ((0, 5.13, ["it's a"]), (6, 9, ["b's"])), [],
    ),
    "pairs as text, in JSON": ({"timestamp": "[[0, 5], [5, 9]]", "caption": '["a", "b"]'}, *AB),
    "a pair as text": ({"segment": "[1.0, 2.0]", "caption": "c"}, ((1, 2, ["c"]),), []),
    "a tuple as text": ({"span": "(1, None)", "caption": "c"}, ((1, None, ["c"]),), []),
    "a pair as NumPy prints it": ({"span": "[1.  2.5]", "caption": "c"}, ((1, 2.5, ["c"]),), []),
    "clocks without quotes": ({"span": "[0:00:01, 0:00:02.5]", "caption": "c"}, ((1, 2.5, ["c"]),), []),
    "a range": ({"timestamp": "00:00:01,500 --> 00:00:02,500", "caption": "c"}, ((1.5, 2.5, ["c"]),), []),
    "columns of lists": ({"start": [0, 5], "end": "[5, 9]", "caption": ["a", "b"]}, *AB),
    "milliseconds beside an empty column": ({"start": "", "start_ms": "1500", "end": None, "end_ms": 2500}, ((1.5, 2.5, []),), []),
    "seconds and milliseconds": ({"start": 1, "end_ms": 2500}, ((1, 2.5, []),), []),
    "an empty span beside a segment": ({"span": None, "segment": [1, 2], "caption": "c"}, ((1, 2, ["c"]),), []),
    "frames beside empty times": ({"start": "", "end": "", "start_frame": 10.0, "end_frame": "20"}, (("frames", 10, 20),), []),
    "objects": ({"captions": [{"start": 0, "end": 5, "text": "a"}, {"start": 5, "end": 9, "text": "b"}]}, *AB),
    "objects beside a caption": (
        {"segments": [{"start": 0, "end": 5, "text": "a"}, {"span": [5, 9], "text": "b"}], "caption": "all"}, AB[0], ["all"],
    ),
    "no span": ({"timestamp": 1672531200, "caption": "c"}, (), ["c"]),
    "no span either": ({"timestamp": "2019-01-01", "segment": "[intro]", "caption": "[1, 2]"}, (), ["[1, 2]"]),
}  # fmt: skip


@pytest.mark.parametrize("form", SPANS)
def test_forms_of_spans(folder, form):
    says, spans, whole = SPANS[form]
    (video,) = read(folder, "l.jsonl", json.dumps({"path": "v.mp4", **says, "by": "x"})).videos
    assert not [span.problem for span in video.spans if span.problem]
    made = tuple(
        (s.start, s.end, s.captions) if s.start_frame is None else ("frames", s.start_frame, s.end_frame)
        for s in video.spans
    )
    assert (made, video.captions) == (spans, whole)
    columns = [span.columns for span in video.spans] or [video.columns]
    assert all(said.pop("by") == "x" for said in columns)
    assert (columns[0] == {}) == bool(spans)  # a column that names spans is used up, and no other one is lost


def test_panda_70m_as_a_table(folder):
    with open(folder / "panda.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "timestamp", "caption", "matching_score"])
        table.writerow(["v.mp4", "[['0:00:00.000', '0:00:05.130'], ['0:00:06.1', '0:00:09.2']]", "['a dog, and a cat', \"it's\"]", "[0.4, 0.5]"])  # fmt: skip
    (video,) = read(folder, "panda.csv").videos
    assert [(s.start, s.end, s.captions) for s in video.spans] == [
        (0, 5.13, ["a dog, and a cat"]), (6.1, 9.2, ["it's"]),
    ]  # fmt: skip
    assert video.spans[0].columns == {"matching_score": "[0.4, 0.5]"} and video.captions == []


def test_spans_and_captions_of_other_counts_are_refused(folder):
    rows = [{"path": "v.mp4"}, {"path": "w.mkv", "timestamps": [[0, 1], [1, 2], [2, 3]], "captions": ["a", "b"]}]
    found = read(folder, "l.jsonl", "\n".join(map(json.dumps, rows)))
    assert [video.path for video in found.videos] == [str(folder / "v.mp4")]
    assert "names 3 spans and 2 captions: write one caption for each span" in found.refused[0].error
    (video,) = read(folder, "m.json", '[{"path": "v.mp4", "timestamps": [[0, 5], [5], [5, 9]]}]').videos
    assert [span.problem for span in video.spans] == [None, "[5] is no span: write [start, end]", None]


@pytest.mark.parametrize(
    ("text", "value"),
    [("['a', \"b\"]", ["a", "b"]), (r"['\n\x41\u00e9\\ \d']", ["\nA\u00e9\\ \\d"]), ("[1, -2.5e1, None]", [1, -25, None]),
     ("[[1, 2], ['a']]", [[1, 2], ["a"]]), ("('a', 'b',)", ["a", "b"]), ("[]", []), ("['a' 'b']", ["a", "b"]),
     ("[music]", None), ("['a'", None), ("['a'] and ['b']", None), ("[a.b('c')]", None), ("[,]", None), ("text", None),
     ("[" * 100_000 + "]" * 100_000, None), ("['" + "\\'" * 50_000 + "]", None)],
)  # fmt: skip
def test_lists_written_as_text(text, value):
    assert parsed_list(text) == value


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(3, 3), ("83.5", 83.5), ("1:23.5", 83.5), ("01:00:01,250", 3601.25), ("12.5s", 12.5), ("1e1", 10),
     (datetime.timedelta(minutes=1), 60), (datetime.time(0, 1, 2), 62)],
)  # fmt: skip
def test_times(value, seconds):
    assert seconds_of(value) == seconds


def test_a_bad_row_among_good_ones_is_a_failed_input_and_costs_no_other(folder):
    text = '{"path": "v.mp4", "caption": "a"}\n{"caption": "no path"}\n{"path": null}\n{]\n{"path": "a\\u0000.mp4"}\n{"path": "rtsp://b/v.mp4"}\n7\n{"path": "\\ud83d.mp4"}'
    found = read(folder, "l.jsonl", text)
    assert said(found, folder) == [("v.mp4", ["a"], {})]
    reasons = {unit.video.path.removeprefix(f"{folder}/"): unit.error for unit in found.refused}
    expected = [
        "names no video",
        "names no video",
        "line 4 is not JSON",
        "cannot be a file name",
        "is an address",
        "is not an object",
        "cannot be a file name",
    ]
    assert list(reasons) == [f"l.jsonl: entry {number}" for number in range(2, 9)]
    assert all(text in reason for text, reason in zip(expected, reasons.values(), strict=True))
    assert all(reason.isprintable() for reason in reasons.values()) and found.refused[0].video.captions == ["no path"]


def test_bad_rows_of_tables(folder):
    found = read(folder, "l.csv", 'path,caption\nv.mp4,a bee\nw.mkv,a cat, asleep\n,lost\nw.mkv,"a "cat"\nw.mkv,fine\n')
    assert said(found, folder) == [("v.mp4", ["a bee"], {}), ("w.mkv", ["fine"], {})]
    assert [unit.error.split(":")[0] for unit in found.refused] == ["list entry 2", "list entry 3", "list entry 4"]
    assert "line 3 has 1 more fields than the header" in found.refused[0].error
    open_quote = read(folder, "m.csv", 'path,caption\nv.mp4,a bee\nw.mkv,"never closed\nv.mp4,swallowed\n')
    assert "lines 3 to 4" in open_quote.refused[0].error and "close it" in open_quote.refused[0].error


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("bad.jsonl", "{]", r"bad.jsonl: cannot be read as"),
        ("cols.csv", "name,caption\nb.mp4,x\n", r"cols.csv: .*no column is called path.*\(found name, caption\)"),
        ("headless.csv", "v.mp4,a bee\n", r"headless.csv: has no head: .*path,caption"),
        ("latin1.csv", "path,caption\nv.mp4,caf\xe9\n".encode("latin-1"), r"latin1.csv: line 2 is not UTF-8.*iconv"),
        ("addresses.txt", "rtsp://x.org/a.mp4\nrtsp://x.org/b.mp4\n", r"entry 1: rtsp.* is an address.*all of its 2 entries"),
        ("no.json", '{"sentences": [{"video_id": "video0"}]}', r"no.json: .*found sentences"),
        ("no.jsonl", '{"sentences": 1}', r"no.jsonl: entry 1: names no video.*found sentences"),
        ("empty.csv", "", "no videos in"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_used(folder, name, content, says):
    with pytest.raises(InputError, match=says) as caught:
        read(folder, name, content)
    assert "\n" not in str(caught.value)


def test_values_that_no_table_holds_cost_no_job(folder):
    lines = [
        r'{"path": "v.mp4", "caption": "bad \ud83d emoji", "note": ["\udc00"], "k\ud800": 1}',
        '{"path": "w.mkv", "id": 123456789012345678901234567890, "near": 9223372036854775807, "score": NaN}',
    ]
    (folder / "l.jsonl").write_text("\n".join(lines))
    day = datetime.datetime(2020, 1, 2, 3, 4, 5)
    table = pa.table(
        {"path": ["x.webm"], "day": [day], "data": [b"\xff"], "icon": [b"\0" * 5000], "start": [float("nan")]}
    )
    pq.write_table(table, folder / "l.parquet")
    found = find_videos([str(folder / "l.jsonl"), str(folder / "l.parquet")])
    first, second, third = found.videos
    assert (first.captions, first.columns) == (["bad \ufffd emoji"], {"note": ["\ufffd"], "k\ufffd": 1})
    assert second.columns == {"id": "123456789012345678901234567890", "near": 2**63 - 1}
    assert third.columns == {"day": "2020-01-02 03:04:05", "data": "b'\\xff'", "icon": "5000 bytes, not kept"}
    assert not third.spans
    for video in found.videos:  # the way into a decoding process, and into a table
        assert unpack(pack(Unit(video).pack())) and TABLES.video_row(Unit(video))["source_columns"].encode()


def test_parquet_with_paths_or_with_the_videos_themselves(folder, tmp_path):
    rows = [{"video": "v.mp4", "caption": ["a", "b"], "start": 1.0, "end": 2.0}, {"video": "w.mkv", "caption": ["c"]}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "l.parquet")
    first, second = read(folder, "l.parquet").videos
    assert first.spans[0].captions == ["a", "b"] and second.captions == ["c"]
    struct = [
        {"bytes": b"one", "path": "a.mkv"},
        {"bytes": None, "path": "v.mp4"},
        {"bytes": b"two", "path": None},
        {"bytes": b"one", "path": "a.mkv"},
    ]
    pq.write_table(
        pa.table({"video": struct, "text": ["x", "y", "z", "again"]}), folder / "hub.parquet", row_group_size=1
    )
    store = tmp_path / "dataset"
    found = read(folder, "hub.parquet", store=store)
    one, v, two = found.videos
    assert [Path(video.path).read_bytes() for video in (one, two)] == [b"one", b"two"]
    assert one.path.startswith(f"{store}/sources/") and one.path.endswith(".mkv") and two.path.endswith(".mp4")
    assert (one.captions, one.columns, v.path) == (["x", "again"], {"video": "a.mkv"}, str(folder / "v.mp4"))
    before = {path: path.stat().st_mtime_ns for path in (store / "sources").iterdir()}
    assert read(folder, "hub.parquet", store=store).videos == found.videos
    assert before == {path: path.stat().st_mtime_ns for path in (store / "sources").iterdir()}


def test_the_size_of_a_field_is_not_a_limit(folder):
    limit = csv.field_size_limit()
    assert said(read(folder, "l.csv", f"path,caption\nv.mp4,{'x' * 300_000}\n"), folder)[0][1] == ["x" * 300_000]
    csv.field_size_limit(limit)
