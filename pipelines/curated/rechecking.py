"""Whether a clip still passes the selection after a copy at keyframes has lost frames of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from curate.export.span import Extracted
from pipelines.curated.exported import OF_BYTES

NOT_ASKED = ("still_middle", "image_embedding", "errors")  # by conditions on what a copy changes


class Recheck:
    """conditions: (name, SQL) of each filter. Only those that look at what a copy changes are asked again."""

    def __init__(self, conditions: Sequence[tuple[str, str]]) -> None:
        self.conditions = [(name, sql) for name, sql in conditions if any(column in sql.lower() for column in OF_BYTES)]

    def fails(self, row: dict[str, Any], made: Extracted) -> str | None:
        """Why a copy will not do: the first filter that the clip passed and its copy does not; None where it will."""
        if not self.conditions or made.how != "copy" or made.num_frames == row["num_frames"]:
            return None
        plain = {name: value for name, value in row.items() if not name.startswith("_") and name not in NOT_ASKED}
        plain["errors"] = list(dict(row.get("errors") or ()).items())
        both = [plain | {"_cut": False}, plain | {name: getattr(made, name) for name in OF_BYTES} | {"_cut": True}]
        errors = pa.map_(pa.string(), pa.string())
        rows = pa.Table.from_pylist(both)
        rows = rows.set_column(
            rows.schema.get_field_index("errors"), "errors", pa.array([r["errors"] for r in both], errors)
        )
        db = duckdb.connect(config={"enable_external_access": False})
        db.register("clips", rows)
        for name, sql in self.conditions:
            try:
                verdicts = dict(db.execute(f"SELECT _cut, ({sql}\n) FROM clips").fetchall())
            except duckdb.Error:
                verdicts = {False: None}
            if not verdicts[False]:  # of one clip alone it is not true: ranks, comparisons with others, labels
                return f"whether a copy would pass {name} cannot be asked of one clip"
            if not verdicts[True]:
                return f"a copy would fail {name}"
        return None
