"""The commit protocol: whatever moment the writer dies at, starting again gives the same rows."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.base.files import write_json
from curate.base.store import store_of
from curate.clip import Clip, Column, Listed, Unit, Video
from curate.parts import Parts
from curate.selection.filters import Filter
from curate.selection.selection import select
from curate.watching.facts import FILE_COLUMNS
from pipelines.dataset.dataset import FORMAT, Dataset, DatasetError, Manifest, Tables, Writer, read_unit
from pipelines.dataset.shards import open_for_writing, sweep
from pipelines.dataset.tables import OF_VIDEO
from pipelines.dataset.upgrade import upgraded

VIDEO_COLUMNS = (*FILE_COLUMNS, *Parts().facts)
TABLES = Tables(
    scores=(Column("motion_score", pa.float32(), "f"), Column("text_area", pa.float32(), "f")),
    facts=(Column("duration", pa.float64(), "d"), Column("fps", pa.float64(), "f")),
)


def unit(number: int, clips: int = 2, **values) -> Unit:
    found = [Clip(i * 10, i * 10 + 10, i / 2.0, i / 2.0 + 0.5, 0.0, 9.0, values=dict(values)) for i in range(clips)]
    video = Video(f"/v/{number}.mp4", f"{number:016x}", captions=["a cat"], columns={"licence": "cc"})
    return Unit(video, facts={"duration": 4.5, "fps": 20.0}, clips=found, seconds={"shots": 0.25})


@pytest.fixture
def root(tmp_path):
    write_json(tmp_path / "dataset.json", {"format": FORMAT, "config": {}, "models": {}})
    return tmp_path


def opened_writer(root, tables, **options):
    open_for_writing(store_of(root), tables)
    return Writer(root, tables, models={}, **options)


def writer(root, **options):
    return opened_writer(root, TABLES, **options)


def newest(root):
    """Unit -> its row in the manifest."""
    batches = Manifest(store_of(root)).load()
    return {f"{row['video_id']}-{row['unit']:04d}": row for batch in batches for row in batch.to_pylist()}


def rows(root):
    dataset = Dataset(root)
    clips = duckdb.sql(f"SELECT * FROM {dataset.clips_sql} ORDER BY clip_id").fetchall()
    return clips, duckdb.sql(f"SELECT * FROM {dataset.videos_sql} ORDER BY video_id, unit").fetchall()


def write_all(root, count=6):
    """What a job does: skip what is recorded, add the rest, a shard for every two units."""
    target = writer(root, shard_clips=4)
    done = set(newest(root))
    for number in range(count):
        item = unit(number, motion_score=number / 2)
        if item.id not in done:
            target.add(item, stages=["shots", "motion"])
    target.flush()


def test_what_is_written_is_read_back(root):
    write_all(root)
    clips, videos = rows(root)
    assert len(clips) == 12 and len(videos) == 6
    assert sorted(newest(root)) == [f"{n:016x}-0000" for n in range(6)]
    shard = newest(root)["0000000000000003-0000"]["shard"]
    back = read_unit(store_of(root), shard, unit(3), TABLES)
    assert back.clips[1].values == {"motion_score": 1.5, "text_area": None}
    assert (back.video, back.facts, back.seconds) == (unit(3).video, unit(3).facts, {"shots": 0.25})
    assert [clip.start_frame for clip in back.clips] == [0, 10]


def dying(root, step, before):
    """In a process of its own: write everything, and die at the rename or link number `step`."""
    calls = iter(range(100))

    def fatal(real):
        def call(*args):
            last = next(calls) == step
            if last and before:
                os._exit(9)
            real(*args)
            if last:
                os._exit(9)

        return call

    os.replace, os.link = fatal(os.replace), fatal(os.link)
    write_all(Path(root))


@pytest.mark.parametrize("before", [True, False], ids=["before the rename", "after the rename"])
@pytest.mark.parametrize("step", range(7))
def test_killed_at_any_commit_and_started_again(root, tmp_path_factory, step, before):
    """The writer of a card and three shards makes seven names of files; it is killed around each of them in turn."""
    # a process of its own: a fork of this one would have its locks and not its threads
    code = "import sys; from tests.pipelines.test_dataset import dying; dying(sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'True')"
    command = [sys.executable, "-c", code, str(root), str(step), str(before)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == 9
    partial = Dataset(root)  # what is visible is whole: every unit of every shard has its clips
    assert all((root / "clips" / f"part-{name}.parquet").exists() for name in partial.shards)
    write_all(root)
    clean = tmp_path_factory.mktemp("clean")
    write_json(clean / "dataset.json", {"format": FORMAT, "config": {}, "models": {}})
    write_all(clean)
    assert rows(root) == rows(clean)
    assert not list(root.rglob("*.tmp"))


def test_a_later_generation_replaces_the_rows_and_then_the_files(root):
    write_all(root, count=4)
    target = writer(root)
    target.add(unit(1, motion_score=0.5, text_area=0.25), stages=["shots", "motion", "text"], generation=1)
    target.flush()
    clips, videos = rows(root)
    assert len(clips) == 8 and len(videos) == 4
    text = duckdb.sql(f"SELECT text_area FROM {Dataset(root).clips_sql} ORDER BY clip_id").fetchall()
    assert [t for (t,) in text] == [None, None, 0.25, 0.25, None, None, None, None]
    target.add(unit(0, clips=3), stages=["shots", "motion", "text"], generation=1)
    target.flush()
    assert len(rows(root)[0]) == 9
    before = len(list((root / "clips").glob("part-*")))
    sweep(store_of(root))  # the first shard held units 0 and 1 and nothing else: it is gone
    assert len(list((root / "clips").glob("part-*"))) == before - 1 == len(list((root / "videos").glob("part-*")))
    assert len(rows(root)[0]) == 9


def test_rows_that_do_not_count_are_swept_out_of_their_shards(root):
    write_all(root)
    target = writer(root)
    target.add(unit(1, motion_score=0.5, text_area=0.25), stages=["shots", "motion", "text"], generation=1)
    target.flush()
    before = rows(root)
    for _ in range(2):
        sweep(store_of(root))
        assert rows(root) == before and not Dataset(root).current.any_stale
        raw = [
            duckdb.sql(f"SELECT count(*) FROM '{root}/{table}/*.parquet'").fetchall()[0][0]
            for table in ("clips", "videos")
        ]
        assert raw == [12, 6]  # what a tool counts that opens the files itself
    assert (
        read_unit(store_of(root), newest(root)[unit(0).id]["shard"], unit(0), TABLES).clips[1].values["motion_score"]
        == 0
    )


def test_failed_and_empty_units_have_a_row(root):
    target = writer(root)
    target.add(unit(7).fail("no video stream"), stages=["shots"])
    target.add(unit(8, clips=0), stages=["shots"])
    target.flush()
    clips, videos = rows(root)
    assert clips == [] and len(videos) == 2
    status = duckdb.sql(f"SELECT status, error, clips FROM {Dataset(root).videos_sql} ORDER BY video_id").fetchall()
    assert status == [("failed", "no video stream", 0), ("ok", None, 0)]


def test_every_column_says_what_it_is(root):
    write_all(root)
    schema = pq.read_schema(next((root / "clips").glob("*.parquet")))
    assert all(field.metadata[b"formula"] for field in schema)


def test_damage_is_named_with_its_mend(root):
    write_all(root)
    shard = next((root / "videos").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"part-.*damaged shard.*annotate again"):
        Dataset(root).files("clips")
    with pytest.raises(DatasetError, match="not a Winnow dataset"):
        Dataset(root / "elsewhere")
    (root / "dataset.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DatasetError, match="format 99"):
        Dataset(root)


def test_paths_that_are_not_text_survive(root):
    odd = unit(1)
    odd.video.path = "/v/\udcff 'quoted'\n.mp4"
    target = writer(root)
    target.add(odd, stages=["shots"])
    target.flush()
    shard = newest(root)[odd.id]["shard"]
    assert read_unit(store_of(root), shard, odd, TABLES).video.path == odd.video.path


def test_thousands_of_stale_units_do_not_count(root):
    """5,000 units, of which each second one was done again."""
    target = writer(root, shard_clips=2000, shard_seconds=1e9)
    for number in range(5000):
        target.add(unit(number, clips=1, motion_score=0.5), stages=["shots", "motion"])
    target.flush()
    for number in range(0, 5000, 2):
        target.add(unit(number, clips=1, text_area=0.5), stages=["shots", "motion", "text"], generation=1)
    target.add(unit(9999, clips=1), stages=["shots"])  # a shard of which every row counts
    target.flush()
    found = duckdb.sql(f"SELECT count(*), count(motion_score), count(text_area) FROM {Dataset(root).clips_sql}")
    assert found.fetchall() == [(5001, 2500, 2500)]
    assert found.columns and "filename" not in duckdb.sql(f"FROM {Dataset(root).clips_sql}").columns


def test_a_unit_is_read_without_the_rest_of_its_shard(root, monkeypatch):
    monkeypatch.setattr("pipelines.dataset.files.GROUP_BYTES", 1)  # as if the rows were large
    write_all(root, count=1)
    target = writer(root)
    for number in range(100, 400):
        target.add(unit(number, motion_score=number / 2), stages=["shots", "motion"])
    target.flush()
    shard = newest(root)[unit(250).id]["shard"]
    assert read_unit(store_of(root), shard, unit(250), TABLES).clips[1].values["motion_score"] == 125.0
    file = pq.ParquetFile(root / "clips" / f"part-{shard}.parquet")
    ids = [file.read_row_group(g, columns=["clip_id"])["clip_id"].to_pylist() for g in range(file.num_row_groups)]
    assert max(map(len, ids)) <= 64 and list(chain(*ids)) == sorted(chain(*ids))
    leaf = file.schema_arrow.get_field_index("video_id")
    ranges = [file.metadata.row_group(g).column(leaf).statistics for g in range(file.num_row_groups)]
    assert sum(s.min <= unit(250).video.video_id <= s.max for s in ranges) == 1


def first_form(root, units=(1, 2)):
    """The dataset as the first version of Winnow wrote it: maps for pairs, one caption, no spans."""
    target = writer(root)
    for number in units:
        target.add(unit(number, motion_score=number / 2), stages=["shots", "motion"])
    target.flush()
    (root / "README.md").unlink()
    late = {"bounds", "source_captions", "source_spans"}
    for path in [*root.glob("clips/*.parquet"), *root.glob("videos/*.parquet")]:
        table = pq.read_table(path)
        name, kind = ("errors", pa.string()) if path.parent.name == "clips" else ("seconds", pa.float64())
        rows = table.to_pylist()
        for row in rows:
            row[name] = [tuple(pair.values()) for pair in row[name]]
        fields = [
            f.with_type(pa.map_(pa.string(), kind)) if f.name == name else f for f in table.schema if f.name not in late
        ]
        schema = pa.schema(fields, metadata=table.schema.metadata)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path.with_name("part-0123456789abcdef.parquet"))
        path.unlink()


def test_a_dataset_of_the_first_form_is_read_and_added_to(root):
    first_form(root)
    columns = "clip_id, bounds, source_caption, source_captions, errors['text'], motion_score"
    before = duckdb.sql(f"SELECT {columns} FROM {Dataset(root).clips_sql} ORDER BY 1").fetchall()
    assert before[0][1:] == ("shots", "a cat", ["a cat"], None, 0.5)
    target = writer(root)  # brings all shards to the form of today
    whole = duckdb.sql(f"SELECT {columns} FROM {Dataset(root).clips_sql} ORDER BY 1").fetchall()
    assert whole == before
    for table, schema in (("clips", TABLES.clips), ("videos", TABLES.videos)):
        assert all(pq.read_schema(path).equals(schema) for path in (root / table).glob("*.parquet"))
    more = unit(3)
    more.video.captions = ["a dog", "a hound"]
    more.clips[0].errors = {"text": "TypeError: x"}
    target.add(more, stages=["shots", "motion"])
    target.add(unit(1, text_area=0.25), stages=["shots", "motion", "text"], generation=1)
    target.flush()
    dataset = Dataset(root)
    after = duckdb.sql(f"SELECT {columns} FROM {dataset.clips_sql} ORDER BY 1").fetchall()
    assert after[2:4] == before[2:] and len(after) == 6
    assert after[4][1:5] == ("shots", "a dog", ["a dog", "a hound"], "TypeError: x")
    spent = duckdb.sql(
        f"SELECT seconds['shots'], source_captions, source_spans FROM {dataset.videos_sql} ORDER BY video_id"
    )
    assert spent.fetchall() == [(0.25, ["a cat"], None), (0.25, ["a cat"], None), (0.25, ["a dog", "a hound"], None)]
    back = read_unit(store_of(root), newest(root)[unit(2).id]["shard"], unit(2), TABLES)
    assert (back.video, back.seconds, back.clips[0].bounds) == (unit(2).video, {"shots": 0.25}, "shots")
    assert {"source_captions", "bounds"} <= set(dataset.schema("clips").names)
    assert not any(pa.types.is_map(field.type) for field in dataset.schema("clips"))


def test_a_renewal_that_was_interrupted_is_resumed(root):
    first_form(root)
    columns = "* EXCLUDE (bounds, source_captions), bounds, source_captions"
    before = duckdb.sql(f"SELECT {columns} FROM {Dataset(root).clips_sql} ORDER BY clip_id").fetchall()
    path = next((root / "clips").glob("*.parquet"))  # and not its videos, as an older Winnow did it
    footer = pq.read_schema(path).metadata
    pq.write_table(upgraded(pq.read_table(path), TABLES.clips).replace_schema_metadata(footer), path)
    assert duckdb.sql(f"SELECT {columns} FROM {Dataset(root).clips_sql} ORDER BY clip_id").fetchall() == before
    writer(root)
    assert duckdb.sql(f"SELECT {columns} FROM {Dataset(root).clips_sql} ORDER BY clip_id").fetchall() == before
    assert len(rows(root)[1]) == 2


FILM = Tables(
    scores=TABLES.scores,
    facts=(Column("codec", pa.string(), "name of the decoder"), Column("interlaced", pa.bool_(), "two fields"),
           Column("hdr", pa.bool_(), "PQ or HLG"), Column("bytes", pa.int64(), "size")),
)  # fmt: skip


def film(number: int, **values) -> Unit:
    made = unit(number, **values)
    made.facts = {"codec": f"codec{number}", "interlaced": number % 2 == 0, "hdr": True, "bytes": 7}
    return made


def test_facts_of_the_video_are_there_for_clips_that_were_recorded_without_them(root):
    target = opened_writer(root, FILM, shard_clips=4)
    for number in range(3):
        target.add(film(number), stages=["shots"])
    target.flush()
    for path in root.glob("clips/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["codec", "interlaced", "hdr"]), path)
    for path in root.glob("videos/*.parquet"):  # as if it did not know of HDR
        pq.write_table(pq.read_table(path).drop_columns(["hdr"]), path)

    def facts():
        dataset = Dataset(root)
        for sql in (dataset.clips_sql, dataset.placed_sql("clips"), dataset.labelled_sql):
            yield duckdb.sql(f"SELECT clip_id, codec, interlaced, hdr FROM {sql} ORDER BY 1").fetchall()

    expected = [
        (f"{n:016x}-{at:08d}", f"codec{n}", n % 2 == 0, None) for n in range(3) for at in (0, 10)
    ]  # fmt: skip
    assert list(facts()) == [expected] * 3
    dataset = Dataset(root)
    assert dataset.schema("clips").field("interlaced").metadata[b"formula"] == b"two fields"
    chosen = select(dataset.clips_sql, [Filter("where", sql="NOT interlaced AND codec = 'codec1'")])
    assert (chosen.clips, chosen.steps[0].remaining) == (6, 2)
    assert "filename" not in duckdb.sql(f"FROM {dataset.clips_sql}").columns
    target = opened_writer(root, FILM)  # brings the shards to the form of today
    assert list(facts()) == [expected] * 3
    assert all({"codec", "hdr"} <= set(pq.read_schema(path).names) for path in root.glob("clips/*.parquet"))
    target.add(film(1, motion_score=2.0), stages=["shots", "motion"], generation=1)
    target.flush()
    assert len(next(facts())) == 6


def test_facts_are_those_of_the_row_that_counts(root):
    target = opened_writer(root, FILM)
    for number in range(2):
        target.add(film(number), stages=["shots"])
    target.flush()
    newer = film(1, motion_score=1.0)
    newer.facts |= {"codec": "newer"}
    target.add(newer, stages=["shots", "motion"], generation=1)
    target.flush()
    for path in root.glob("clips/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["codec", "interlaced", "hdr"]), path)
    found = duckdb.sql(f"SELECT DISTINCT video_id, codec FROM {Dataset(root).clips_sql} ORDER BY 1").fetchall()
    assert [codec for _, codec in found] == ["codec0", "newer"]


def test_the_types_of_the_facts_of_a_video_are_those_of_its_table():
    kinds = {column.name: column.type for column in VIDEO_COLUMNS}
    for name, kind in OF_VIDEO.items():
        empty = duckdb.sql(f"SELECT NULL::{kind} AS x").to_arrow_table()
        assert empty.schema.field("x").type == kinds[name], name


def test_spans_of_a_list_come_back_as_they_were(root):
    listed = unit(5)
    listed.video.spans = [
        Listed(0.5, 1.0, captions=["x"], columns={"n": 1}, where="l.csv: entry 1"),
        Listed(start_frame=3),
    ]
    listed.clips[0].bounds, listed.clips[0].captions, listed.clips[0].columns = "list", ["x", "y"], {"n": 1}
    target = writer(root)
    target.add(listed, stages=["shots"])
    target.flush()
    back = read_unit(store_of(root), newest(root)[listed.id]["shard"], listed, TABLES)
    assert back.video == listed.video
    assert back.clips[0] == Clip(**{**vars(listed.clips[0]), "values": dict.fromkeys(("motion_score", "text_area"))})
    result = duckdb.sql(
        f"SELECT bounds, source_caption, source_captions, source_columns FROM {Dataset(root).clips_sql} ORDER BY clip_id"
    )
    assert result.fetchall() == [
        ("list", "x", ["x", "y"], '{"licence": "cc", "n": 1}'), ("shots", "a cat", ["a cat"], '{"licence": "cc"}'),
    ]  # fmt: skip


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_loads_both_tables(root, tmp_path_factory, streaming):
    from datasets import load_dataset

    write_all(root)
    odd = unit(9, motion_score=1.0)
    odd.clips[0].errors = {"text": "TypeError: x"}
    target = writer(root)
    target.add(odd, stages=["shots", "motion"])
    target.flush()
    options = {"split": "train", "streaming": streaming, "cache_dir": str(tmp_path_factory.mktemp("cache"))}
    clips = list(load_dataset(str(root), "clips", **options))
    videos = list(load_dataset(str(root), "videos", **options))
    assert (len(clips), len(videos)) == (14, 7)
    (failed,) = [row for row in clips if row["errors"]]
    assert failed["errors"] == [{"stage": "text", "reason": "TypeError: x"}] and failed["source_captions"] == ["a cat"]
    assert videos[0]["seconds"] == [{"stage": "shots", "seconds": 0.25}]
    assert len(list(load_dataset(str(root), **options))) == 14  # clips, where none is named


def test_a_card_that_a_person_edited_stays(root):
    write_all(root)
    card = root / "README.md"
    written = card.read_text()
    card.write_text(written.replace("| `clip_id` |", "| `old_id` |"))
    writer(root)
    assert card.read_text() == written  # columns of an earlier version
    card.write_text("# Mine\n")
    writer(root)
    assert card.read_text() == "# Mine\n"
