"""The funnel against hand-written SQL; nulls; ties; what a `where` may not do; errors that name the part and the
fix."""

from collections import Counter

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.selection.filters import KINDS, Filter, SelectionError, filters_from_options, parse_filters
from curate.selection.presets import PRESETS, Preset, preset_help
from curate.selection.selection import select


def table(n=5000, seed=0):
    rng = np.random.default_rng(seed)

    def holes(values, share):
        return pa.array(values, mask=rng.random(n) < share)

    start = rng.random(n) * 100
    return pa.table(
        {
            "clip_id": [f"{i:05d}" for i in rng.permutation(n)],
            "video_id": [f"v{i}" for i in rng.integers(0, 50, n)],
            "start_time": start,
            "end_time": start + rng.random(n) * 10,
            "num_frames": pa.array(rng.integers(1, 300, n), pa.int64()),
            "motion_score": holes(rng.gamma(2.0, 3.0, n), 0.1),
            "text_area": holes(np.round(rng.random(n) ** 4, 1), 0.05),  # mostly ties
            "similarity_merged": holes(rng.normal(size=n).astype(np.float32), 0.2),
            "aesthetic_score": pa.nulls(n, pa.float64()),
            "caption_merged": [f"a dog {i % 7}" for i in range(n)],
            "image_embedding": [[0.0, 1.0]] * n,
            "errors": pa.array(
                [[("text", "broken")] if i % 9 == 0 else [] for i in range(n)], pa.map_("string", "string")
            ),
        }
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "part-0.parquet"
    pq.write_table(table(), path)
    return f"read_parquet(['{path}'])"


FILTERS = [
    Filter("drop_bottom", "motion_score", 25),
    Filter("drop_top", "text_area", 25),
    Filter("where", sql="num_frames % 2 = 0 OR motion_score > 5"),
    Filter("drop_bottom", "similarity_merged", 50),
    Filter("min", "num_frames", 16),
]


def test_funnel_equals_hand_written_sql(clips):
    chosen = select(clips, FILTERS)
    db = duckdb.connect()
    motion, text, similarity = db.execute(
        f"""SELECT quantile_cont(motion_score, 0.25), quantile_cont(text_area, 0.75),
                   quantile_cont(similarity_merged, 0.5) FROM {clips}"""
    ).fetchall()[0]
    conditions = [
        f"motion_score >= {motion!r}::DOUBLE",
        f"text_area <= {text!r}::DOUBLE",
        "(num_frames % 2 = 0 OR motion_score > 5)",
        f"similarity_merged >= {similarity!r}::DOUBLE",
        "num_frames >= 16",
    ]
    nulls = ["motion_score IS NULL", "text_area IS NULL", "num_frames % 2 = 1 AND motion_score IS NULL"]
    nulls += ["similarity_merged IS NULL", "false"]
    hours = "coalesce(sum((end_time - start_time) / 3600), 0)"
    for i, step in enumerate(chosen.steps):
        null = db.execute(f"SELECT count(*) FROM {clips} WHERE {nulls[i]}").fetchall()[0][0]
        failing, lost = db.execute(f"SELECT count(*), {hours} FROM {clips} WHERE NOT ({conditions[i]})").fetchall()[0]
        lost += db.execute(f"SELECT {hours} FROM {clips} WHERE {nulls[i]}").fetchall()[0][0]
        together = " AND ".join(conditions[: i + 1])
        left, left_hours = db.execute(f"SELECT count(*), {hours} FROM {clips} WHERE {together}").fetchall()[0]
        assert (step.null, step.failing, step.remaining) == (null, failing, left)
        assert step.dropped_hours == pytest.approx(lost) and step.remaining_hours == pytest.approx(left_hours)
    kept = db.execute(f"SELECT clip_id FROM {clips} WHERE {' AND '.join(conditions)} ORDER BY 1").fetchall()
    assert chosen.kept_ids().to_pylist() == [row[0] for row in kept]
    assert chosen.kept == len(kept) > 0 and chosen.clips == 5000
    dropped = chosen.dropped()
    assert dropped.num_rows == 5000 - len(kept) and all(dropped["reasons"].to_pylist())


def test_percentile_is_over_all_clips_whatever_the_order(clips):
    forward, backward = select(clips, FILTERS), select(clips, FILTERS[::-1])
    assert [s.threshold for s in forward.steps] == [s.threshold for s in backward.steps][::-1]
    assert forward.kept_ids().equals(backward.kept_ids())
    scores = table()["motion_score"].drop_null().to_numpy()
    assert forward.steps[0].threshold == pytest.approx(np.percentile(scores, 25), rel=1e-12)


def test_ties_at_the_threshold_stay(tmp_path):
    db = duckdb.connect()
    rows = (
        "SELECT i::VARCHAR AS clip_id, 0.0 AS start_time, 3600.0 AS end_time, (i // 8)::DOUBLE AS s FROM range(10) r(i)"
    )
    db.execute(f"COPY ({rows}) TO '{tmp_path}/a.parquet'")
    chosen = select(f"'{tmp_path}/a.parquet'", [Filter("drop_bottom", "s", 25)])
    assert (chosen.kept, chosen.kept_hours) == (10, 10.0)
    assert select(f"'{tmp_path}/a.parquet'", [Filter("drop_top", "s", 25)]).kept == 8  # p75 of 8 zeros, 2 ones is 0


def test_nan_is_a_null_not_a_high_score(tmp_path):
    scores = pa.array([1.0, float("nan"), 3.0, float("inf")])
    zeros = pa.array([0.0] * 4)
    pq.write_table(
        pa.table({"clip_id": list("abcd"), "start_time": zeros, "end_time": zeros, "s": scores}), tmp_path / "a.parquet"
    )
    chosen = select(f"'{tmp_path}/a.parquet'", [Filter("min", "s", 0)])
    assert chosen.kept_ids().to_pylist() == ["a", "c"] and chosen.steps[0].null == 2
    assert chosen.reasons("b") == ["s is null"] and chosen.reasons("a") == []


def test_reasons_name_every_filter_that_dropped(clips):
    chosen = select(clips, [Filter("min", "num_frames", 1000), Filter("where", sql="caption_merged = 'no such'")])
    assert chosen.kept == 0
    assert chosen.reasons("00007") == ["not (num_frames >= 1000)", "not (caption_merged = 'no such')"]
    with pytest.raises(KeyError):
        chosen.reasons("nobody")


def test_no_filters_keep_all(clips):
    assert select(clips, []).kept == 5000


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("row_number() OVER (PARTITION BY video_id ORDER BY motion_score DESC) <= 3", 3 * 50),  # of each video
        ("video_id IN (SELECT video_id FROM clips GROUP BY 1 HAVING count(*) > 90)", "large videos"),
        ("errors['text'] IS NOT NULL", len(range(0, 5000, 9))),
        ("len(image_embedding) = 2 -- a comment", 5000),
        ("caption_merged ILIKE '%dog 3%'", len(range(3, 5000, 7))),
    ],
)
def test_where_is_all_of_sql(clips, where, kept):
    if kept == "large videos":
        counts = Counter(table()["video_id"].to_pylist()).values()
        kept = sum(count for count in counts if count > 90)
        assert 0 < kept < 5000
    assert select(clips, [Filter("where", sql=where)]).kept == kept


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("(SELECT count(*) FROM read_csv('/etc/passwd')) > 0", "may not reach files"),
        ("(SELECT count(*) FROM '/etc/passwd') > 0", "only table is clips"),
        ("(SELECT content FROM read_text('/etc/passwd')) <> ''", "may not reach files"),
        ("(SELECT count(*) FROM glob('/*')) > 0", "may not reach files"),
        ("(SELECT count(*) FROM secret) > 0", "only table is clips"),
        ("COPY clips TO '/tmp/winnow-copy.csv'", "where COPY"),
        ("ATTACH '/tmp/winnow.db'", "where ATTACH"),
        ("true; DROP TABLE clips", "where true; DROP"),
        ("true) FROM clips; DROP TABLE clips; SELECT (true", "syntax error"),
        ("motion_scor > 2", "did you mean motion_score"),
        ("motion_score > ", "one SQL condition"),
        ("motion_score", "not a condition but DOUBLE"),
        ("true, false", "single expression"),
        ("sum(motion_score) > 3", "where sum"),
        ("motion_score > 'high'", "Could not convert"),
        ("motion_score > ?", "where motion_score > ?"),
        ("aesthetic_score > 5", "pack embedded"),
        ("*", "not a condition"),
        ("", "condition is empty"),
    ],
)
def test_bad_where_is_one_line(clips, where, says):
    secret = pa.table({"a": [1]})  # Python variables are out of reach too
    with pytest.raises(SelectionError) as caught:
        select(clips, [Filter("where", sql=where)], why_null={"aesthetic_score": "pack embedded"})
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert secret.num_rows == 1


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (Filter("drop_bottom", "motion", 25), "did you mean motion_score"),
        (Filter("min", "caption_merged", 2), "not a number"),
        (Filter("drop_bottom", "aesthetic_score", 25), "null for every clip (no aesthetic model: pack embedded)"),
    ],
)
def test_bad_column_is_one_line(clips, chosen, says):
    with pytest.raises(SelectionError) as caught:
        select(clips, [chosen], why_null={"aesthetic_score": "no aesthetic model: pack embedded"})
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("random() < 0.5", "random()"),
        ("main.Random() < 0.5 -- half", "random()"),
        ("clip_id IN (SELECT clip_id FROM clips WHERE uuid() > 'a')", "uuid()"),
        ("make_date(2020, 1, 1) < current_date", "current_date"),
        ("now() > TIMESTAMP '2020-01-01'", "now()"),
        ("ago(INTERVAL 1 DAY) > TIMESTAMP '2020-01-01'", "ago()"),
        ("age(TIMESTAMP '2020-01-01') > INTERVAL 1 DAY", "age()"),
        ("clip_id IN (SELECT clip_id FROM clips USING SAMPLE 10%)", "SAMPLE"),
    ],
)
def test_chance_and_the_clock_are_no_conditions(clips, sql, names):
    with pytest.raises(SelectionError) as caught:
        select(clips, [Filter("where", sql=sql)])
    assert f": {names} would give another answer" in str(caught.value) and "\n" not in str(caught.value)


def test_steady_conditions_that_look_like_it(clips):
    for sql in ("caption_merged NOT LIKE 'random()%'", "hash(clip_id) % 10 = 0", "num_frames > 9 -- now()"):
        first, again = (select(clips, [Filter("where", sql=sql)]).kept_ids() for _ in range(2))
        assert len(first) > 0 and first.equals(again)


def test_empty_and_foreign_tables(tmp_path):
    pq.write_table(table().slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(SelectionError, match="no clips"):
        select(f"'{tmp_path}/empty.parquet'", [])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(SelectionError, match="not an annotated dataset"):
        select(f"'{tmp_path}/foreign.parquet'", [])
    with pytest.raises(SelectionError, match="cannot be read"):
        select(f"'{tmp_path}/none.parquet'", [])


def test_filters_are_read_back():
    spec = [
        {"drop_bottom": {"motion_score": "25%", "aesthetic_score": 12.5}},
        {"max": {"text_area": 0.07}},
        {"where": "a > 1"},
    ]
    filters = parse_filters(spec)
    assert [f.name for f in filters] == [
        "drop_bottom motion_score=25%", "drop_bottom aesthetic_score=12.5%", "max text_area=0.07", "where a > 1",
    ]  # fmt: skip
    assert parse_filters([f.to_dict() for f in filters]) == filters
    assert filters_from_options(["a > 1"], (), ["text_area=0.07"], ["motion_score=25%"]) == [
        filters[3],
        filters[2],
        filters[0],
    ]
    mapping = {"where": None, "drop_bottom": {"motion_score": 25.0}, "drop_top": {}}
    assert parse_filters(mapping) == filters[:1]
    assert parse_filters(None) == parse_filters("none") == []


def test_the_papers_presets():
    """Blattmann et al. 2023: a quarter of the motion, aesthetic and text scores go, and half of the similarities."""
    names = ["motion_score=25%", "aesthetic_score=25%", "similarity_merged=50%"]
    paper = [*(f"drop_bottom {name}" for name in names), "drop_top text_area=25%"]
    assert [f.name for f in parse_filters("svd")] == paper
    assert [f.name for f in parse_filters("svd-final")] == [*paper, "max text_area=0.07"]


def test_a_preset_is_one_object_and_one_entry(monkeypatch):
    """The config, the command line's help and the errors are derived from the list."""
    presets = [*PRESETS, LONG]
    assert [f.name for f in parse_filters("long", presets)] == ["min num_frames=48", "where width >= 480"]
    with pytest.raises(SelectionError, match="there are long, none, svd, svd-final"):
        parse_filters("lang", presets)
    monkeypatch.setattr("curate.selection.presets.PRESETS", presets)
    assert "long (48 frames or more)" in preset_help()


LONG = Preset("long", "48 frames or more", [{"min": {"num_frames": 48}}, {"where": "width >= 480"}])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_read_back(kind):
    chosen = Filter(kind.name, sql="a > 1") if not kind.sign else Filter(kind.name, "a", 12.5)
    assert parse_filters(chosen.to_dict()) == [chosen]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("sdv", "no preset named 'sdv'"),
        ([{"drop_botom": {"motion_score": 25}}], "no such filter"),
        ([{"drop_botom": 3}], "no such filter"),
        ([{"drop_bottom": "25%"}], "no column named"),
        ([{"drop_bottom": {"motion_score": "a lot"}}], "not a number"),
        ([{"drop_bottom": {"motion_score": 100}}], "between 0% and 100%"),
        ([{"max": {"text_area": "7%"}}], "is a percentage"),
        (["motion_score > 2"], "step 1 must be a mapping"),
        ([{"where": ""}], "condition is empty"),
    ],
)
def test_bad_specs_name_the_part(spec, says):
    with pytest.raises(SelectionError, match=says):
        parse_filters(spec)


def test_bad_option():
    with pytest.raises(SelectionError, match="--drop-bottom motion_score: write column=amount"):
        filters_from_options(drop_bottom=["motion_score"])
