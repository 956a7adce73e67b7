"""The spoiled world through annotate and select: what the selection of pipelines/configs/world.yaml keeps."""

from collections import Counter

import duckdb
import pytest

from curate.selection.filters import Filter, SelectionError
from curate.selection.selection import select
from pipelines.annotation.annotate import annotate
from pipelines.annotation.pools import Place
from pipelines.config import load
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.empty import why_empty
from tests.pipelines.test_curated import curate
from video_model.world.world import make_world

KIND = "source_columns->>'contamination'"


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), 24, seed=11, contaminate=0.5)


def annotated(listed, out, watcher, *overrides):
    config = load("world", ["decode.isolate=false", *overrides])
    annotate([str(listed)], out, config, place=Place("inline", None, None), watcher=watcher)
    return Dataset(out), config


def kinds(curated) -> Counter:
    shards = str(curated / "data" / "*.parquet")
    return Counter(
        dict(duckdb.execute(f"SELECT {KIND}, count(*) FROM read_parquet(?) GROUP BY 1", [shards]).fetchall())
    )


def test_the_selection_keeps_what_is_clean(listed, tmp_path, watcher):
    dataset, config = annotated(listed, tmp_path / "d", watcher)
    curate(dataset, config.filters, tmp_path / "c", options=config.export.options, workers=1)
    kept = kinds(tmp_path / "c")
    assert kept["none"] == 12 and kept["static"] == kept["text"] == 0
    assert (
        kept["cut"] <= 1 and kept["caption"] <= 1
    )  # of three each: two halves may look alike, two captions agree by luck
    said = duckdb.execute(
        "SELECT count(*) FROM read_parquet(?) WHERE source_caption LIKE 'a % over a % background' AND octet_length(video.bytes) > 0",
        [str(tmp_path / "c" / "data" / "*.parquet")],
    ).fetchone()
    assert said == (sum(kept.values()),)


def test_raw_is_every_file_as_it_is(listed, tmp_path, watcher):
    dataset, config = annotated(listed, tmp_path / "d", watcher, "shots.detector=whole")
    curate(dataset, [], tmp_path / "c", options=config.export.options, workers=1)
    assert kinds(tmp_path / "c") == {"none": 12, "static": 3, "text": 3, "cut": 3, "caption": 3}
    with pytest.raises(SelectionError, match=r"similarity_video.*has an embedder"):
        select(
            dataset.clips_sql,
            [Filter("min", "similarity_video", 0.1)],
            why_null=why_empty(config.model_dump(mode="json")),
        )
