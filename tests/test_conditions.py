"""One condition, one verdict: `winnow select`, the inspector's filter and training's `where` accept the same SQL."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.selection.filters import Filter, SelectionError
from curate.selection.selection import select
from pipelines.inspector.data.columns import Columns
from video_model.data.where import rows_where
from video_model.errors import DataError

ROWS = {
    "clip_id": [f"{i:04d}" for i in range(40)],
    "video_id": [f"{i // 4}" for i in range(40)],
    "start_time": [float(i) for i in range(40)],
    "end_time": [i + 2.0 for i in range(40)],
    "motion_score": [None if i == 7 else i / 4 for i in range(40)],
    "made": ["2020-01-02 03:04:05"] * 40,
    "source_captions": [["a cat", "a dog"][: i % 3] for i in range(40)],
}
USED = (
    "motion_score > 2",
    "motion_score > 2 OR made LIKE '2020%'",
    "list_contains(source_captions, 'a dog')",
    "hash(clip_id) % 10 < 5",
    "age(made::TIMESTAMP, TIMESTAMP '2019-01-01') > INTERVAL 300 DAY",
    "row_number() OVER (PARTITION BY video_id ORDER BY motion_score DESC, clip_id) <= 2",
    "motion_score > (SELECT avg(motion_score) FROM clips)",
    "EXISTS (SELECT * FROM clips AS other WHERE other.video_id = clips.video_id AND other.clip_id > clips.clip_id)",
    "motion_score IS NULL",
)
REFUSED = (
    "age(made::TIMESTAMP) > INTERVAL 300 DAY",
    "made::TIMESTAMP < current_localtimestamp()",
    "made::TIMESTAMP < current_timestamp",
    "made::DATE < today()",
    "now() > made::TIMESTAMPTZ",
    "random() < 0.5",
    "uuid() > clip_id",
    "rowid % 2 = 0",
    "current_user = 'me'",
    "current_setting('threads')::INT > 1",
    "COLUMNS('motion.*') > 2",
    "clip_id IN (SELECT clip_id FROM clips USING SAMPLE 3)",
    "motion_score",
    "motion_score >",
    "no_such > 3",
    "true); DROP TABLE clips; --",
    "EXISTS (SELECT * FROM read_csv('/etc/passwd'))",
    "motion_score::TEXT::DATE > DATE '2020-01-01'",
    "clip_id IN (SELECT clip_id FROM others)",
    "_place < 3",
    "clip_id IN (SELECT clip_id FROM _held.clips)",
    "EXISTS (SELECT * FROM _labels)",
    "",
)


@pytest.fixture(scope="module")
def askers(tmp_path_factory):
    """name -> function of a condition: the ids that it keeps, or None where it is refused."""
    path = tmp_path_factory.mktemp("clips") / "clips.parquet"
    table = pa.table(ROWS)
    pq.write_table(table, path)
    relation = f"read_parquet('{path}')"
    columns = _inspected(relation, table, tmp_path_factory.mktemp("cache"))

    def selected(sql):
        try:
            return select(relation, [Filter("where", sql=sql)]).kept_ids().to_pylist()
        except SelectionError:
            return None

    def inspected(sql):
        try:
            passed, _ = columns.where(Filter("where", sql=sql))
        except SelectionError:
            return None
        return table["clip_id"].filter(pa.array(passed.flags())).to_pylist()

    def trained(sql):
        try:
            return table["clip_id"].take(pa.array(rows_where(table, sql, table.column_names))).to_pylist()
        except DataError:
            return None

    return {"select": selected, "inspector": inspected, "training": trained}


def _inspected(relation, table, cache):
    from types import SimpleNamespace

    placed = f"(SELECT *, 'f' AS filename, 0::BIGINT AS file_row_number FROM {relation})"
    kinds = {"string": "VARCHAR", "double": "DOUBLE"}
    types = {field.name: kinds.get(str(field.type), "VARCHAR[]") for field in table.schema}
    types |= {"filename": "VARCHAR", "file_row_number": "BIGINT", "label": "VARCHAR", "label_note": "VARCHAR"}
    place = {"root": "memory://conditions", "labels_root": "memory://conditions", "state": ""}
    return Columns(SimpleNamespace(placed=placed, clips=placed, types=types, why_null={}, **place), cache)


@pytest.mark.parametrize("sql", USED)
def test_a_condition_keeps_the_same_clips_everywhere(askers, sql):
    found = {name: ask(sql) for name, ask in askers.items()}
    assert found["select"] and all(kept == found["select"] for kept in found.values()), found


@pytest.mark.parametrize("sql", REFUSED)
def test_what_one_refuses_all_refuse(askers, sql):
    assert {name: ask(sql) for name, ask in askers.items()} == dict.fromkeys(askers)
