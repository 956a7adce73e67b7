"""Labels: whole lines whoever writes, columns of a where, agreement with filters."""

import json
import subprocess
import sys

import numpy as np
import pytest

from curate.selection.filters import Filter, SelectionError
from curate.selection.selection import select
from pipelines.dataset import labels
from pipelines.dataset.dataset import Dataset
from pipelines.inspector.panels.labels.agreement import best, measured
from tests.pipelines.inspector import data
from tests.pipelines.inspector.conftest import serving


def test_the_last_line_counts(tmp_path):
    assert labels.read(tmp_path) == {}
    labels.append(tmp_path, "a", "good", None)
    labels.append(tmp_path, "b", "bad", " blurred \n")
    labels.append(tmp_path, "a", "bad", "on a second look")
    labels.append(tmp_path, "c", "good", None)
    labels.append(tmp_path, "c", None, None)
    assert labels.read(tmp_path) == {"a": labels.Label("bad", "on a second look"), "b": labels.Label("bad", "blurred")}
    with pytest.raises(labels.LabelError, match="choose good or bad"):
        labels.append(tmp_path, "a", "maybe", None)
    with pytest.raises(labels.LabelError, match="at most 2000"):
        labels.append(tmp_path, "a", None, "x" * 2001)
    (tmp_path / "folder" / labels.NAME).mkdir(parents=True)
    with pytest.raises(labels.LabelError, match=r"labels\.jsonl: Is a directory: check the disk"):
        labels.append(tmp_path / "folder", "a", "good", None)


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    path = tmp_path / labels.NAME
    path.write_bytes(b'{"clip_id": "a", "label": "good"}\n{"clip_id": "b", "lab')
    labels.append(tmp_path, "c", "bad", "half a character: \ud800")
    with path.open("ab") as stream:
        stream.write(b'\xff\xfe\n[1]\n{"clip_id": 3, "label": "good"}\n{"clip_id": "d", "label": "great"}\nnull\n\n')
    assert labels.read(tmp_path) == {"a": labels.Label("good", None), "c": labels.Label("bad", "half a character: ?")}


WRITER = """
import sys
from pathlib import Path
from pipelines.dataset import labels
for i in range(40):
    labels.append(Path(sys.argv[1]), f"{sys.argv[2]}-{i}", "good", sys.argv[2] * 300)
"""


def test_several_write_at_once(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "xyz"]
    assert all(writer.wait() == 0 for writer in writers)
    lines = [json.loads(line) for line in (tmp_path / labels.NAME).read_text().splitlines()]
    assert len(lines) == 120 and len(labels.read(tmp_path)) == 120


def test_labels_are_columns_of_a_where(annotated):
    dataset = Dataset(annotated)
    with pytest.raises(SelectionError, match="null for every clip"):
        select(dataset.labelled_sql, [Filter("where", sql="label = 'good'")])


def test_labelling_through_the_page(tmp_path):
    root = data.make(tmp_path / "annotated", videos=2)
    given = {
        data.clip_id(0, 1): "good",
        data.clip_id(1, 1): "good",
        data.clip_id(0, 4): "bad",
        data.clip_id(1, 4): "bad",
    }
    wheres = {"filters": [{"kind": "where", "sql": "label = 'good' AND label_note IS NULL"}]}
    with serving(root, tmp_path / "cache") as server:
        assert "null for every clip" in server.post("/api/view", wheres)["funnel"][0]["error"]
        for clip, label in given.items():
            server.post("/api/label", {"clip": clip, "label": label})
        assert (
            server.post("/api/label", {"clip": data.clip_id(1, 1), "label": "good", "note": "</script>"})["note"]
            == "</script>"
        )
        server.post("/api/label", {"clip": "nothing", "label": "good"}, status=404)
        server.post("/api/label", {"clip": data.clip_id(1, 1), "label": "fine"}, status=422)
        assert not server.session.changed  # our own labels are no news
        assert server.post("/api/view", wheres)["clips"] == 1
        listed = server.post("/api/view", {"page": {"show": "all", "find": {"label": "bad"}}})["grid"]["rows"]
        assert [row["id"] for row in listed] == [data.clip_id(0, 4), data.clip_id(1, 4)] and listed[0]["label"] == "bad"

        # motion of the four: good 1 and 3, bad 4 and null
        found = server.post("/api/agreement", {"filters": [{"kind": "min", "column": "motion_score", "amount": 2}]})
        (one,) = found["filters"]
        assert (found["good"], found["bad"], one["precision"], one["recall"]) == (2, 2, 0.5, 0.5)
        assert (one["kept_good"], one["kept_bad"], one["dropped_good"], one["dropped_bad"]) == (1, 1, 1, 1)
        motion = next(score for score in found["scores"] if score["column"] == "motion_score")
        assert (motion["sign"], motion["threshold"], motion["f1"]) == ("<=", 3.0, 1.0)
    kept = select(Dataset(root).labelled_sql, [Filter("where", sql="label = 'good'")])
    assert kept.kept_ids().to_pylist() == [data.clip_id(0, 1), data.clip_id(1, 1)]
    with serving(root, tmp_path / "cache") as server:  # another server reads what this one wrote
        assert server.post("/api/view", {"filters": [{"kind": "where", "sql": "label = 'bad'"}]})["clips"] == 2


def test_precision_and_recall():
    kept, good = np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool)
    found = measured(kept, good)
    assert found["precision"] == found["recall"] == found["f1"] == 2 / 3
    nothing = measured(np.zeros(3, bool), np.zeros(3, bool))
    assert (nothing["precision"], nothing["recall"], nothing["f1"], nothing["dropped_bad"]) == (None, None, None, 3)


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    values, good = np.round(rng.normal(size=80), 1), rng.random(80) < 0.4
    values[good] += 0.5
    values[rng.random(80) < 0.1] = np.nan
    found = best(values, good)
    tried = 0.0
    for cut in np.unique(values[~np.isnan(values)]):
        for kept in (values >= cut, values <= cut):
            hits = int((kept & good).sum())
            tried = max(tried, 2 * hits / (int(kept.sum()) + int(good.sum())))
    assert found["f1"] == pytest.approx(tried)
    kept = values >= found["threshold"] if found["sign"] == ">=" else values <= found["threshold"]
    assert 2 * (kept & good).sum() / (kept.sum() + good.sum()) == pytest.approx(tried)


def test_the_best_threshold_of_a_score_that_separates():
    good = np.array([1, 1, 0, 0, 0], bool)
    found = best(np.array([5.0, 3.0, 2.0, np.nan, 1.0]), good)
    assert (found["sign"], found["threshold"], found["f1"]) == (">=", 3.0, 1.0)
    found = best(np.array([1.0, 2.0, 3.0, np.nan, 5.0]), good)
    assert (found["sign"], found["threshold"], found["f1"]) == ("<=", 2.0, 1.0)
