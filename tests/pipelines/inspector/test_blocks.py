"""Masks, orders and samples made block by block are those of whole arrays; tables of a state are made once, and shared."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.selection.filters import Filter
from pipelines.inspector.data import blocks
from pipelines.inspector.data.axes import NO_BIN, axis_of
from pipelines.inspector.data.blocks import Mask, bisected, chosen, ordered, shuffled, sliced
from pipelines.inspector.data.choice import Chooser
from pipelines.inspector.data.columns import Columns
from pipelines.inspector.data.inspected import open_inspected
from pipelines.inspector.data.listing import Listing, Page
from pipelines.inspector.data.snapshot import snapshot
from tests.pipelines.inspector import data
from tests.pipelines.inspector.test_choice import FILTERS, N, chooser  # noqa: F401  the fixture


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(blocks, "PIECE", 100)


@pytest.mark.parametrize("count", [1, 7, 8, 63, 64, 65, 1000])
def test_masks(count):
    rng = np.random.default_rng(count)
    one, two = rng.random(count) < 0.4, rng.random(count) < 0.7
    first, second = Mask.of(one), Mask.at(count, np.flatnonzero(two))
    assert ((first & second).flags() == (one & two)).all() and ((~first).flags() == ~one).all()
    assert first.total() == one.sum() and (~first).total() == (~one).sum() and Mask.full(count).total() == count
    places = rng.permutation(count).astype(np.int32)
    assert (first.take(places) == one[places]).all() and [first[int(p)] for p in places] == one[places].tolist()
    assert np.concatenate(list(first.places())).tolist() == np.flatnonzero(one).tolist()
    assert np.concatenate(list(first.places_backwards())).tolist() == np.flatnonzero(one)[::-1].tolist()
    for offset, limit in ((0, 5), (3, 10), (count, 3), (0, count)):
        assert sliced(first.places(), offset, limit).tolist() == np.flatnonzero(one)[offset : offset + limit].tolist()
        order = places[one[places]]
        assert sliced(chosen(places, first), offset, limit).tolist() == order[offset : offset + limit].tolist()
        backwards = sliced(chosen(places, first, backwards=True), offset, limit).tolist()
        assert backwards == order[::-1][offset : offset + limit].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_order_made_in_pieces(dtype):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(3000) < 0.5, 0.0, np.round(rng.normal(size=3000), 1)).astype(dtype)
    values[rng.random(3000) < 0.1] = np.nan
    whole = [p for _, p in sorted((float(v), p) for p, v in enumerate(values) if v == v)]
    found = ordered(values)
    assert found.tolist() == whole and found.dtype == np.int32
    for value in (-9.0, -0.3, 0.0, 0.25, 9.0):
        there = values[~np.isnan(values)].astype(np.float64)
        assert bisected(values, found, value) == (there < value).sum()
        assert bisected(values, found, value, right=True) == (there <= value).sum()
    assert ordered(np.full(300, np.nan)).tolist() == []


@pytest.mark.parametrize("count", [1, 2, 5, 64, 1000])
def test_a_shuffled_order_has_every_place_once(count):
    found = np.concatenate(list(shuffled(count, 3)))
    assert sorted(found.tolist()) == list(range(count))
    assert count < 64 or (found.tolist() != np.concatenate(list(shuffled(count, 4))).tolist())
    if count == 1000:  # its beginning is a fair sample
        assert 350 < found[:100].mean() < 650


def test_an_axis_over_many_blocks():
    values = np.append(np.linspace(0, 1, 1000), [np.nan, 1e6])
    codes = np.zeros(len(values), np.uint8)
    axis = axis_of(values, codes)
    assert sum(axis.counts) == 1001 and axis.counts == np.bincount(codes[codes != NO_BIN]).tolist()
    assert codes[1000] == NO_BIN and (axis.minimum, axis.maximum) == (0.0, 1e6) and axis.high < 2
    assert axis_of(np.full(500, np.nan)) is None and axis_of(np.full(500, 2.0)) is None


def test_choices_and_histograms_over_many_blocks(chooser):  # noqa: F811
    columns = chooser.columns
    other = Chooser(columns)
    for filters in (FILTERS[:3], FILTERS[:2], [FILTERS[1], FILTERS[0]], FILTERS):
        choice = other.choose(filters)
        kept = np.logical_and.reduce([v.passed.flags() for v in choice.verdicts])
        assert (choice.kept.flags() == kept).all() and choice.clips == kept.sum()
        assert choice.hours == pytest.approx(columns.seconds[kept].sum() / 3600)
    for step in range(8):  # by little and by much: what changed is counted, or all is
        choice = other.choose([Filter("min", "motion_score", 3.0 + (0.05 * step if step % 3 else 4.0))])
        for name in ("motion_score", "num_frames"):
            kept = columns.codes[name][choice.kept.flags()]
            assert (
                other.histogram(name, choice)
                == np.bincount(kept, minlength=256)[: len(other.axes[name].counts)].tolist()
            )
    page = Listing(other, None).page(other.choose(FILTERS[:1]), Page(sort="random", seed=5, limit=240))
    assert len({row["id"] for row in page["rows"]}) == 240 and all(row["kept"] for row in page["rows"])
    assert columns.count == N


def test_tables_of_a_state_are_made_once_and_shared(tmp_path):
    root = data.make(tmp_path / "annotated", videos=1)
    inspected, cache = open_inspected(root), tmp_path / "cache"

    def made():
        return {path.name: path.stat().st_mtime_ns for path in cache.glob("tables/*/*/clips.duckdb")}

    def states():
        return {path.name for path in cache.glob("tables/*/*")}

    columns = Columns(inspected, cache)
    order = columns.order("motion_score").tolist()
    before, first = made(), states()
    again = Columns(inspected, cache)
    assert made() == before and again.order("motion_score").tolist() == order and again.values["motion_score"][1] == 1.0
    data.add(root, [1])
    newer = Columns(open_inspected(root), cache)
    assert newer.count == 10 and first < states()  # the older one is in use
    del columns, again
    newest = snapshot(inspected.placed, inspected.root, "another state", cache)
    assert newest.count == 5 and len(states()) == 2 and not first & states()
    (newest.folder / "about.json").write_text("{")  # a machine that lost power
    assert snapshot(inspected.placed, inspected.root, "another state", cache).count == 5


def test_a_cache_that_was_emptied_meanwhile(tmp_path):
    columns = Columns(open_inspected(data.make(tmp_path / "annotated", videos=1)), tmp_path / "cache")
    for path in columns.snapshot.folder.iterdir():
        path.unlink()
    assert columns.order("motion_score").tolist() == [0, 1, 2, 3, 4]
    assert columns.where(Filter("where", sql="motion_score > 2"))[0].total() == 2
    assert columns.id(3) == data.clip_id(0, 3)


def test_scores_of_every_kind_of_number(tmp_path):
    import pyarrow as pa

    table = pa.table(
        {
            "clip_id": ["a", "b", "c"], "start_time": [0.0, 1.0, None], "end_time": [1.5, 2.0, 3.0],
            "small": pa.array([1, None, 3], pa.int16()), "large": pa.array([1 << 40, 3, None], pa.int64()),
            "single": pa.array([0.1, float("inf"), None], pa.float32()), "name \" '": [1.0, 2.0, float("nan")],
        }
    )  # fmt: skip
    path = tmp_path / "part-0.parquet"
    pq.write_table(table, path)
    clips = f"(SELECT * FROM read_parquet('{path}', filename=true, file_row_number=true))"
    found = snapshot(clips, "place", "state", tmp_path / "cache")
    values = {name: found.array(name, "values") for name in found.scores}
    assert {name: array.dtype.name for name, array in values.items()} == {
        "seconds": "float64", "small": "float32", "large": "float64", "single": "float32", "name \" '": "float64",
    }  # fmt: skip
    assert found.nulls == {"seconds": 1, "small": 1, "large": 1, "single": 2, "name \" '": 1}
    assert values["large"][:2].tolist() == [1 << 40, 3] and values["single"][0] == np.float32(0.1)
    assert np.isnan(values["single"][1]) and np.isnan(values["seconds"][2]) and found.shown is None
    assert json.loads((found.folder / "about.json").read_text())["files"] == [str(path)]
    with pytest.raises(Exception, match="no clips"):
        snapshot(f"(SELECT * FROM {clips} WHERE false)", "place", "empty", tmp_path / "cache")
