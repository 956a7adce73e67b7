"""A condition on training clips: the same SQL, under the same locks, as `winnow select` and the inspector take."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from curate.base import sql as locked
from video_model.errors import DataError


def rows_where(table: pa.Table, condition: str, columns: list[str]) -> np.ndarray:
    """[N] int64: the rows of `table` for which the condition is true (not false, not null), ascending.

    The table is called `clips`, for subqueries and window functions. columns: all that there are, for the message.
    Raises DataError: unknown column, bad SQL, not a condition, one that depends on chance or the clock.
    """
    db, shown = locked.connect(), " ".join(condition.split())
    try:
        db.register("given", table.append_column("_row", pa.array(np.arange(len(table)))))
        db.execute("CREATE TABLE clips AS SELECT * FROM given")
        db.unregister("given")
        locked.lock(db)
        verdict = locked.verdict(db, condition, "_row", columns)
        found = verdict.filter(duckdb.ColumnExpression("verdict")).order("_row").fetchnumpy()["_row"]
    except locked.ConditionError as error:
        raise DataError(f"where: {shown}: {error}") from None
    except duckdb.Error as error:  # found while computing it
        raise DataError(f"where: {shown}: {locked.explain(error, columns)}") from None
    finally:
        db.close()
    return np.asarray(found, np.int64)


def mentioned(condition: str, columns: list[str]) -> list[str]:
    """Those of the columns whose names occur in the condition."""
    return [name for name in columns if name.lower() in condition.lower()]
