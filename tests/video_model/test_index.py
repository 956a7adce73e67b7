"""The index of training data: what is in it, what a condition keeps, and every way in which data can be wrong."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.video_model.clips import clip, clips, write_clips, write_images
from video_model.data.index import join, open_index
from video_model.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("index") / "curated", clips(10))


def says(call) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_say_what_they_are_and_where_they_lie(folder):
    index = open_index(folder)
    assert len(index) == 10 and len(index.files) == 2 and not index.is_image.any()
    assert index.keys == [clip(number)["clip_id"] for number in range(10)]
    assert index.file.tolist() == [0] * 5 + [1] * 5 and index.position.tolist() == [0, 1, 2, 3, 4] * 2
    assert index.num_frames.tolist() == [24] * 10 and index.fps.tolist() == [8.0] * 10
    assert index.shape.tolist() == [[48, 64]] * 10 and index.motion.tolist() == list(range(10))
    assert "video" not in index.rows.texts.column_names and index.report == {}


def test_pictures_in_both_forms(tmp_path):
    write_images(tmp_path / "a.parquet", 3)
    write_images(tmp_path / "b.parquet", 2, plain=True, caption="text")
    index = open_index([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert index.is_image.all() and len(set(index.keys)) == 5 and index.num_frames.tolist() == [1] * 5
    assert [index.caption(row, 0.9) for row in range(5)] == [f"picture {i}" for i in (0, 1, 2, 0, 1)]
    assert np.isnan(index.fps).all() and np.isnan(index.motion).all()
    assert len(open_index(tmp_path)) == 5


def test_a_condition_keeps_what_is_true(folder):
    index = open_index(folder, "motion_score >= 3 AND motion_score < 5")
    assert index.motion.tolist() == [3, 4] and index.report == {"not in where": 8}
    ranked = open_index(folder, "row_number() OVER (PARTITION BY video_id ORDER BY motion_score DESC) = 1")
    assert ranked.motion.tolist() == [1, 3, 5, 7, 9]
    median = open_index(folder, "motion_score > (SELECT quantile_cont(motion_score, 0.5) FROM clips)")
    assert median.motion.tolist() == [5, 6, 7, 8, 9]


def test_null_does_not_pass(tmp_path):
    rows = [clip(0, motion_score=None), clip(1)]
    index = open_index(write_clips(tmp_path / "c", rows, shards=1), "NOT motion_score > 5")
    assert index.motion.tolist() == [1]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("nope > 2", "no column nope; columns are clip_id, video_id, num_frames"),
        ("motion_score", "not a condition but FLOAT"),
        ("motion_score >", "write one SQL condition"),
        ("motion_score > 1) OR (1 = 1", "write one SQL condition"),
        ("1 = 1; DROP TABLE clips", "more than one statement"),
        ("random() < 0.5", r"random\(\) would give another answer each time"),
        ("current_date > '2020-01-01'", "current_date would give another answer"),
        ("EXISTS (SELECT * FROM read_csv('/etc/passwd'))", "may not reach files"),
        ("EXISTS (SELECT * FROM '/etc/passwd')", "may not reach files|does not exist"),
        ("motion_score > 100", "keeps none of 10 clips; loosen it"),
    ],
)
def test_conditions_that_cannot_be_used(folder, where, reason):
    with pytest.raises(DataError, match=reason):
        open_index(folder, where)


def test_no_such_folder_and_folders_of_other_things(tmp_path):
    assert "no such file or folder; winnow select DATASET" in says(lambda: open_index(tmp_path / "none"))
    assert "has no Parquet files" in says(lambda: open_index(tmp_path))
    (tmp_path / ".partial").mkdir()
    assert "not finished; run the same winnow select again" in says(lambda: open_index(tmp_path))
    assert "no training data" in says(lambda: open_index([]))


def test_an_annotated_dataset_is_not_a_curated_one(tmp_path):
    root = tmp_path / "annotated"
    (root / "clips").mkdir(parents=True)
    (root / "dataset.json").write_text("{}")
    shard = root / "clips" / "part-0.parquet"
    pq.write_table(pa.table({"clip_id": ["a"], "motion_score": [1.0]}), shard)
    assert f"choose clips first: winnow select {root} --out CURATED" in says(lambda: open_index(root))
    assert f"winnow select {root} --out" in says(lambda: open_index(shard))


def test_files_that_are_not_what_they_should_be(tmp_path, folder):
    (tmp_path / "a.parquet").write_text("a text, not Parquet")
    assert "cannot be read as Parquet" in says(lambda: open_index(tmp_path / "a.parquet"))
    cut = tmp_path / "cut.parquet"
    whole = sorted((folder / "data").iterdir())[0].read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as Parquet" in says(lambda: open_index(cut))
    missing = write_clips(tmp_path / "m", clips(2), drop=("fps", "width"))
    assert "column fps, width missing" in says(lambda: open_index(missing))
    pq.write_table(pa.table({"video": ["a.mp4"], "caption": ["a"]}), tmp_path / "b.parquet")
    assert "column video is string, not a struct of bytes" in says(lambda: open_index(tmp_path / "b.parquet"))
    table = pq.read_table(sorted((folder / "data").iterdir())[0])
    at = table.column_names.index("fps")
    pq.write_table(table.set_column(at, "fps", pa.array(["8"] * len(table))), tmp_path / "c.parquet")
    assert "column fps is string, not a number" in says(lambda: open_index(tmp_path / "c.parquet"))
    pq.write_table(table.slice(0, 0), tmp_path / "d.parquet")
    assert "holds no rows" in says(lambda: open_index(tmp_path / "d.parquet"))


def test_captions_that_are_nowhere(tmp_path, folder):
    assert "no caption column (nope, caption, text, TEXT, txt); columns are clip_id" in says(
        lambda: open_index(folder, captions={"nope": 1})
    )
    mixed = {"caption_frame": 1, "nope": 1}
    assert "no source has a column nope" in says(lambda: open_index(folder, captions=mixed))
    assert "probability" in says(lambda: open_index(folder, captions={"caption_frame": 0}))
    write_images(tmp_path / "a.parquet", 2, caption="title")
    assert "has no caption column" in says(lambda: open_index(tmp_path / "a.parquet"))
    assert open_index(tmp_path / "a.parquet", captions={"title": 1}).caption(1, 0.0) == "picture 1"
    assert "fps is double, not text" in says(lambda: open_index(folder, captions={"fps": 1}))


def test_captions_are_drawn_with_their_probabilities(folder):
    index = open_index(folder)
    shares = {"caption_frame of 4": 0.5, "caption_video of 4": 0.25, "caption_merged of 4": 0.25}
    draws = (np.arange(1000) + 0.5) / 1000
    counts = {text: sum(index.caption(4, draw) == text for draw in draws) for text in shares}
    assert counts == {text: 1000 * share for text, share in shares.items()}


def test_a_missing_caption_gives_its_share_to_the_others(tmp_path):
    rows = [
        clip(0, caption_frame=None),
        clip(1, caption_frame="", caption_video=" \n"),
        clip(2, caption_frame=None, caption_video="", caption_merged=None),
    ]
    index = open_index(write_clips(tmp_path / "c", rows, shards=1))
    draws = (np.arange(1000) + 0.5) / 1000
    assert sum(index.caption(0, draw) == "caption_video of 0" for draw in draws) == 500
    assert {index.caption(1, draw) for draw in draws} == {"caption_merged of 1"}
    assert {index.caption(2, draw) for draw in draws} == {""} and index.silent.tolist() == [False, False, True]


def test_held_out_shares_no_video(tmp_path):
    rows = clips(60)
    index = open_index(write_clips(tmp_path / "c", rows))
    train, held = index.split(0.2, seed=3)
    videos = [set(part.text("video_id").to_pylist()) for part in (train, held)]
    assert not videos[0] & videos[1] and len(train) + len(held) == 60
    assert 2 <= len(videos[1]) <= 12  # of 30: 6 +- 4
    again = index.split(0.2, seed=3)[1]
    assert again.keys == held.keys and index.split(0.2, seed=4)[1].keys != held.keys
    fewer = open_index(tmp_path / "c", "motion_score < 30").split(0.2, seed=3)[1]
    assert set(fewer.keys) <= set(held.keys)  # a condition moves no video to the other side


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_neither_side_is_empty(tmp_path, fraction):
    write_clips(tmp_path / "c", clips(4), shards=1)
    write_images(tmp_path / "i.parquet", 2)
    train, held = open_index([tmp_path / "c", tmp_path / "i.parquet"]).split(fraction)
    for part in (train, held):
        assert part.is_image.any() and not part.is_image.all()


def test_one_video_cannot_be_split(tmp_path):
    index = open_index(write_clips(tmp_path / "c", clips(2), shards=1))
    train, held = index.split(0.5)
    assert (len(train), len(held)) == (2, 0)
    assert [len(part) for part in open_index(tmp_path / "c").split(0)] == [2, 0]
    with pytest.raises(DataError, match="must be >= 0 and < 1"):
        index.split(1)


def test_join_keeps_the_conditions_apart(tmp_path, folder):
    write_images(tmp_path / "i.parquet", 3)
    joined = join(open_index(folder, "motion_score > 7"), open_index(tmp_path / "i.parquet"))
    assert joined.is_image.tolist() == [False, False, True, True, True]
    assert joined.motion[:2].tolist() == [8, 9] and all(math.isnan(m) for m in joined.motion[2:])
    assert [joined.files[i].kind for i in joined.file] == ["video"] * 2 + ["image"] * 3
    assert joined.caption(4, 0.5) == "picture 2" and joined.report == {"not in where": 8}
    twice = join(open_index(folder, "motion_score > 7"), open_index(folder, "motion_score > 5"))
    assert sorted(twice.motion) == [6, 7, 8, 9] and twice.report["named twice"] == 2


def test_what_is_named_twice_counts_once(tmp_path, folder):
    assert len(open_index([folder, folder])) == 10
    other = write_clips(tmp_path / "other", [clip(9), clip(10)], shards=1)
    index = open_index([folder, other])
    assert len(index) == 11 and index.report == {"named twice": 1}


def test_identity_is_of_the_content_not_the_place(tmp_path, folder):
    moved = write_clips(tmp_path / "moved", clips(10))
    other = write_clips(tmp_path / "other", [*clips(9), clip(11)])
    prints = [open_index(path).fingerprint for path in (folder, moved, other)]
    assert prints[0] == prints[1] != prints[2]
    assert open_index(folder, "motion_score > 3").fingerprint != prints[0]
