"""What the page counts is what `winnow select` keeps: against curate.selection.selection.select, on scores with nulls and ties."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.selection.filters import Filter, SelectionError
from curate.selection.selection import ScoreTable, select
from pipelines.dataset import labels
from pipelines.inspector.data.axes import axis_of
from pipelines.inspector.data.blocks import ordered
from pipelines.inspector.data.choice import Chooser
from pipelines.inspector.data.columns import Columns, TooLong, identifiers, passing
from pipelines.inspector.data.inspected import Inspected
from pipelines.inspector.data.listing import Find, Listing, Page

N = 3000


def table(seed=0):
    rng = np.random.default_rng(seed)

    def holes(values, share):
        return pa.array(values, mask=rng.random(N) < share)

    start = rng.random(N) * 100
    motion = rng.gamma(2.0, 3.0, N)
    motion[:5] = [np.nan, np.inf, -np.inf, 0.1, 0.1]
    return pa.table(
        {
            "clip_id": [f"{i:05d}" for i in rng.permutation(N)],
            "video_id": [f"v{i}" for i in rng.integers(0, 50, N)],
            "start_time": start,
            "end_time": start + np.round(rng.random(N) * 10, 1),
            "num_frames": pa.array(rng.integers(1, 60, N), pa.int64()),
            "motion_score": holes(motion.astype(np.float32), 0.1),
            "text_area": holes(np.round(rng.random(N) ** 4, 1), 0.05),
            "similarity_merged": holes(rng.normal(size=N).astype(np.float32), 0.2),
            "fps": pa.array(rng.choice([23.976, 25.0, 29.97], N)),
            "aesthetic_score": pa.nulls(N, pa.float64()),
            "caption_merged": [f"A dog {i % 7}" for i in range(N)],
            "caption_video": ["a video of a dog"] * N,
            "image_embedding": pa.array(list(rng.normal(size=(N, 2))), pa.list_(pa.float32(), 2)),
            "still_middle": [b"x"] * N,
            "video": pa.array([{"bytes": b"x", "path": None}] * N),
        }
    )


@pytest.fixture(scope="module")
def chooser(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "part-0.parquet"
    pq.write_table(table(), path)
    clips = f"(SELECT * FROM read_parquet(['{path}'], filename=true, file_row_number=true))"
    types = {row[0]: str(row[1]) for row in duckdb.connect().execute(f"DESCRIBE SELECT * FROM {clips}").fetchall()}
    types |= dict.fromkeys(labels.COLUMNS, "VARCHAR")
    inspected = Inspected(str(path.parent), "annotated", clips, "", pq.read_schema(path), types, {}, {}, [], {}, "")
    return Chooser(Columns(inspected, tmp_path_factory.mktemp("cache")))


FILTERS = [
    Filter("drop_bottom", "motion_score", 25),
    Filter("drop_top", "text_area", 25),
    Filter("where", sql="num_frames % 2 = 0 OR motion_score > 5"),
    Filter("drop_bottom", "similarity_merged", 12.5),
    Filter("min", "num_frames", 16),
    Filter("max", "fps", 29.97),
    Filter("where", sql="end_time - start_time >= 1.5"),
    Filter("where", sql="row_number() OVER (PARTITION BY video_id ORDER BY motion_score DESC) <= 40"),
    Filter("where", sql="image_embedding[1] > 0.5 OR Image_Embedding[2] < motion_score"),
    Filter("min", "motion_score", 0.1),
]


@pytest.mark.parametrize("filters", [[], FILTERS, FILTERS[::-1], *([chosen] for chosen in FILTERS)])
def test_the_same_as_select(chooser, filters):
    chosen, choice = select(chooser.columns.inspected.clips, filters), chooser.choose(filters)
    assert (choice.clips, chooser.columns.count) == (chosen.kept, chosen.clips)
    assert choice.hours == pytest.approx(chosen.kept_hours) and chooser.total_hours == pytest.approx(chosen.hours)
    assert chooser.columns.ids.filter(pa.array(choice.kept.flags())).to_pylist() == chosen.kept_ids().to_pylist()
    for verdict, left, step in zip(choice.verdicts, choice.remaining, chosen.steps, strict=True):
        assert (verdict.nulls, verdict.failing) == (step.null, step.failing) and verdict.error is None
        assert verdict.hours == pytest.approx(step.dropped_hours) and left[0] == step.remaining
        if verdict.filter.kind != "where":
            assert verdict.threshold == step.threshold


def test_float32_thresholds_are_compared_in_double_precision():
    values = np.array([0.1, np.nextafter(np.float32(0.1), np.float32(0)), np.nan], np.float32)  # 0.1f > 0.1
    for sign, threshold, passed in (
        (">=", 0.1, [True, False, False]),
        ("<=", 0.1, [False, True, False]),  # a comparison in single precision would pass the first
        (">=", 0.10000000149011612, [True, False, False]),
        ("<=", 0.10000000149011612, [True, True, False]),
    ):
        assert passing(values, sign, threshold).tolist() == passed


def test_what_cannot_be_applied_says_so_and_is_left_out(chooser):
    wrong = [
        Filter("min", "aesthetic_score", 1),
        Filter("where", sql="motion_scor > 2"),
        Filter("min", "caption_merged", 1),
    ]
    choice = chooser.choose([*wrong, FILTERS[4]])
    errors = [verdict.error for verdict in choice.verdicts]
    assert (
        "null for every clip" in errors[0] and "did you mean motion_score" in errors[1] and "not a number" in errors[2]
    )
    assert errors[3] is None and choice.clips == chooser.choose([FILTERS[4]]).clips


ASKS_FOR_BYTES = [
    "octet_length(still_middle) = 1", "video IS NOT NULL", "clips.video.bytes IS NOT NULL", '"Video" IS NULL',
    "(SELECT count(*) FROM clips a JOIN clips b USING (video)) > 1",
]  # fmt: skip


@pytest.mark.parametrize("sql", ASKS_FOR_BYTES)
def test_bytes_of_media_are_never_loaded(chooser, monkeypatch, sql):
    loaded = loading(monkeypatch)
    with pytest.raises(SelectionError, match=r"(video|still_middle): the bytes of stills and clips are not loaded"):
        chooser.columns.where(Filter("where", sql=sql))
    assert not loaded


def loading(monkeypatch):
    """The columns and settings of every table that is made from now on."""
    loaded, make = [], ScoreTable.__init__

    def noted(table, clips, filters, **options):
        make(table, clips, filters, **options)
        held = table.db.execute("SELECT column_name FROM (DESCRIBE clips)").fetchall()
        limit = table.db.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
        loaded.append(({name for (name,) in held}, limit))

    monkeypatch.setattr(ScoreTable, "__init__", noted)
    return loaded


def test_a_condition_loads_the_columns_that_it_names(chooser, monkeypatch):
    loaded = loading(monkeypatch)
    for sql in ("caption_video LIKE '%dog%'", "video_id <> 'video'", "caption_merged <> 'still_middle' -- video"):
        assert chooser.columns.where(Filter("where", sql=sql))[0].total() == N
    assert not loaded  # all of that is held
    chooser.columns.where(Filter("where", sql="image_embedding[1] > 0 AND caption_video LIKE '%video%'"))
    ((held, limit),) = loaded
    assert held == {"clip_id", "start_time", "end_time", "_hours", "caption_video", "image_embedding"}
    assert limit == chooser.columns.table.db.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]


def test_loading_columns_is_stopped_too(chooser, monkeypatch):
    monkeypatch.setattr("pipelines.inspector.data.columns.QUERY_SECONDS", 0.2)
    inspected = chooser.columns.inspected
    slow = "range(20000) a, range(20000) b WHERE a.range * b.range % 7 = 9"
    monkeypatch.setattr(inspected, "placed", f"(SELECT c.* FROM {inspected.placed} c, {slow})")
    with pytest.raises(TooLong, match=r"takes longer than 0\.2 s"):
        chooser.columns.where(Filter("where", sql="image_embedding[1] > 0"))


def test_a_timeout_is_not_remembered(chooser, monkeypatch):
    slow, answer = Filter("where", sql="num_frames > 7"), chooser.columns.where

    def too_long(_):
        raise TooLong("takes longer")

    monkeypatch.setattr(chooser.columns, "where", too_long)
    choice = chooser.choose([slow])
    assert choice.verdicts[0].error == "takes longer" and choice.clips == N
    monkeypatch.setattr(chooser.columns, "where", answer)
    choice = chooser.choose([slow])
    assert choice.verdicts[0].error is None
    assert choice.clips == np.count_nonzero(chooser.columns.values["num_frames"] > 7)


def test_names_in_a_condition():
    assert identifiers("len(list_filter(\"A b\", lambda v: v > 'c')) > D.e -- f") == {"a b", "v", "d", "e"}
    assert identifiers("this does not ( parse") == set()


def test_histograms_count_every_clip_with_a_score(chooser):
    choice = chooser.choose(FILTERS[:2])
    for name, axis in chooser.axes.items():
        values = chooser.columns.values[name]
        assert sum(axis.counts) == np.count_nonzero(~np.isnan(values))
        assert sum(chooser.histogram(name, choice)) == np.count_nonzero(choice.kept.flags() & ~np.isnan(values))
    frames = chooser.axes["num_frames"]
    assert (frames.low, frames.high, len(frames.counts)) == (0.5, 59.5, 59)
    assert frames.counts[9] == np.count_nonzero(chooser.columns.values["num_frames"] == 10)
    assert axis_of(np.array([2.0, 2.0])) is None and axis_of(np.array([np.nan])) is None
    tail = axis_of(np.append(np.linspace(0, 1, 1000), [1e6]))
    assert 0.9 < tail.high < 2 and tail.maximum == 1e6 and sum(tail.counts) == 1001


def test_grid_is_sorted_and_complete(chooser):
    grid, choice = Listing(chooser, None), chooser.choose(FILTERS[:2])
    page = grid.page(choice, Page(sort="motion_score", limit=240))
    values = [row["value"] for row in page["rows"]]
    assert values == sorted(values) and all(row["kept"] and not row["badges"] for row in page["rows"])
    assert page["total"] == choice.clips
    dropped = grid.page(choice, Page(show="dropped", limit=240))
    assert dropped["total"] == N - choice.clips and all(row["badges"] for row in dropped["rows"])
    alone = grid.page(choice, Page(only=1))
    assert alone["total"] == choice.verdicts[1].failing + choice.verdicts[1].nulls
    assert all(1 in [index for index, _ in row["badges"]] for row in alone["rows"])
    everything = grid.page(choice, Page(show="all", sort="motion_score", descending=True))
    scored = int(np.count_nonzero(~np.isnan(chooser.columns.values["motion_score"])))
    assert everything["total"] == scored and everything["note"].startswith(f"{N - scored:,} clips without")


def test_a_random_sample_is_that_of_its_seed(chooser):
    grid, choice = Listing(chooser, None), chooser.choose([])
    one, two, again = (grid.page(choice, Page(sort="random", seed=seed))["rows"] for seed in (1, 2, 1))
    assert one == again != two
    rest = grid.page(choice, Page(sort="random", seed=1, offset=60))["rows"]
    assert not {row["id"] for row in one} & {row["id"] for row in rest}


@pytest.mark.parametrize("chosen", [FILTERS[0], FILTERS[1], FILTERS[4], FILTERS[6]])
def test_both_sides_of_a_threshold(chooser, chosen):
    choice = chooser.choose([FILTERS[2], chosen])
    found = Listing(chooser, None).near(choice, 1, 5, others=False)
    values = chooser.columns.values[found["column"]]
    below, above = ([row["value"] for row in found[side]] for side in ("below", "above"))
    assert below == sorted(below, reverse=True) and above == sorted(above) and below[0] <= above[0]
    passed = choice.verdicts[1].passed
    kept, dropped = (found["above"], found["below"]) if found["keeps_high"] else (found["below"], found["above"])
    assert all(passed[chooser.columns.place(row["id"])] for row in kept)
    assert not any(passed[chooser.columns.place(row["id"])] for row in dropped)
    assert found["count_below"] + found["count_above"] == np.count_nonzero(~np.isnan(values))
    others = Listing(chooser, None).near(choice, 1, 5, others=True)
    assert all(index == 1 for row in others["below"] + others["above"] for index, _ in row["badges"])


def test_finding(chooser):
    grid = Listing(chooser, None)
    words = grid.found(Find(words="DOG 3"))
    assert words.total() == len([i for i in range(N) if i % 7 == 3])
    assert not grid.found(Find(words="100%")).total() and not grid.found(Find(words="' OR 1=1 --")).total()
    both = grid.found(Find(words="dog 3", where="num_frames > 30"))
    assert (both.flags() == (words.flags() & (chooser.columns.values["num_frames"] > 30))).all()
    assert grid.found(Find()) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_is_that_of_a_stable_sort(dtype):
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=5000), 1).astype(dtype)
    values[rng.random(5000) < 0.1] = np.nan
    values[:6] = [0.0, -0.0, np.finfo(dtype).max, np.finfo(dtype).min, -np.nan, 1e-40]
    found = ordered(values)
    places = sorted((float(value), place) for place, value in enumerate(values) if value == value)
    assert found.tolist() == [place for _, place in places]
