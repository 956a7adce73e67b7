"""Scores are found by what the tables declare, so that a user's own column is one."""

import pyarrow as pa

from curate.clip import Column
from pipelines.dataset import statistics
from pipelines.dataset.columns import score_columns, unit_of
from pipelines.dataset.dataset import Dataset, Tables, Writer
from pipelines.dataset.tables import CLIP_IDENTITY
from tests.pipelines.test_curated import TABLES, curate, make_dataset, map_here

OWN = (
    Column("sharpness", pa.float64(), "variance of the Laplacian", "1/px", "0.."),
    Column("people", pa.int32(), "faces found"),
    Column("mood", pa.string(), "a word"),
    Column("loud", pa.bool_(), "louder than speech"),
)


def test_numbers_that_say_something_of_a_clip_are_scores():
    schema = Tables(scores=OWN, facts=()).clips
    assert score_columns(schema) == ["num_frames", "fps", "width", "height", "sharpness", "people"]
    assert unit_of(schema, "sharpness") == "1/px" and unit_of(schema, "people") == ""


def test_the_columns_of_a_clip_keep_their_order():
    assert [column.name for column in CLIP_IDENTITY] == [
        "clip_id", "video_id", "video_path", "unit", "start_time", "end_time", "start_frame", "end_frame",
        "num_frames", "fps", "width", "height", "clock", "shot_start_time", "shot_end_time", "bounds",
    ]  # fmt: skip


def test_a_score_of_ones_own_is_in_statistics_plots_and_card(tmp_path, monkeypatch):
    tables = Tables(scores=(*TABLES.scores, *OWN), facts=TABLES.facts)
    monkeypatch.setattr("tests.pipelines.test_curated.TABLES", tables)
    add = Writer.add

    def with_own(writer, unit, **options):
        for number, clip in enumerate(unit.clips):
            clip.values |= {"sharpness": number / 4, "people": number % 3, "mood": "calm"}
        return add(writer, unit, **options)

    monkeypatch.setattr(Writer, "add", with_own)
    data = make_dataset(tmp_path / "annotated", videos=1)
    found = {score.column: score for score in statistics.read(data.root).scores}
    assert found["sharpness"].quantiles[-1] == 9 / 4 and found["sharpness"].unit == "1/px" and "mood" not in found
    curate(Dataset(data.root), [], tmp_path / "out", map_fn=map_here)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "(plots/sharpness.png)" in card and "(plots/people.png)" in card and "plots/mood" not in card
    assert "| `sharpness` | double | variance of the Laplacian | 1/px | 0.. |" in card
