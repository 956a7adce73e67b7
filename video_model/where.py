"""A condition on clips, in SQL: run by DuckDB in memory, over columns that are in it, with no way to anything else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from video_model.sources import DataError

CHANCE = """SELECT DISTINCT function_name FROM duckdb_functions()
    WHERE stability <> 'CONSISTENT' OR macro_definition ILIKE '%current_timestamp%'"""
CLOCK = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}


def rows_where(table: pa.Table, condition: str, columns: list[str]) -> np.ndarray:
    """[N] int64: the rows of `table` for which the condition is true (not false, not null), ascending.

    The table is called `clips`, for subqueries and window functions. columns: all that there are, for the message.
    Raises DataError: unknown column, bad SQL, not a condition, one that depends on chance or the clock.
    """
    db = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    shown = " ".join(condition.split())
    try:
        db.register("given", table.append_column("_row", pa.array(np.arange(len(table)))))
        db.execute("CREATE TABLE clips AS SELECT * FROM given")
        db.unregister("given")
        for setting in ("python_enable_replacements=false", "enable_external_access=false", "lock_configuration=true"):
            db.execute(f"SET {setting}")
        if unsteady := _unsteady(db, condition, set(table.column_names)):
            raise DataError(
                f"where: {shown}: {', '.join(unsteady)} gives another answer each time; compare columns with constants "
                "(a random share: hash(clip_id) % 10 = 0)"
            )
        # As one expression of a relation a condition cannot end the statement and start another.
        verdict = db.table("clips").select(
            duckdb.ColumnExpression("_row"), duckdb.SQLExpression(condition).alias("_passed")
        )
        kind = str(verdict.types[-1])
        if kind != "BOOLEAN":
            raise DataError(f"where: {shown}: not a condition but {kind}; compare it with something")
        found = verdict.filter(duckdb.ColumnExpression("_passed")).order("_row").fetchnumpy()["_row"]
    except duckdb.Error as error:
        raise DataError(f"where: {shown}: {_explain(error, columns)}") from None
    finally:
        db.close()
    return np.asarray(found, np.int64)


def mentioned(condition: str, columns: list[str]) -> list[str]:
    """Those of the columns whose names occur in the condition."""
    return [name for name in columns if name.lower() in condition.lower()]


def _unsteady(db: duckdb.DuckDBPyConnection, condition: str, columns: set[str]) -> list[str]:
    """What in the condition depends on chance, the clock or the session; [] for what does not parse."""
    (tree,) = db.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{condition}\n) FROM clips"]).fetchone()
    functions = {row[0] for row in db.execute(CHANCE).fetchall()}
    found = set()
    for node in _nodes(json.loads(tree)):
        name, parts = str(node.get("function_name", "")).lower(), node.get("column_names") or []
        if name in functions:
            found.add(f"{name}()")
        if len(parts) == 1 and parts[0].lower() in CLOCK - columns:
            found.add(parts[0])
        if node.get("sample"):
            found.add("SAMPLE")
    return sorted(found)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(part)


def _explain(error: duckdb.Error, columns: list[str]) -> str:
    message = re.sub(r"^[A-Za-z ]+ Error: ", "", str(error).strip().split("\n")[0])
    if unknown := re.search(r'Referenced column "([^"]+)" not found', message):
        return f"no column {unknown[1]}; columns are {', '.join(columns)}"
    if isinstance(error, duckdb.PermissionException):
        return "a condition may not reach files, network or settings; use the columns of the clips"
    if isinstance(error, duckdb.ParserException):
        return f"{message}; write one SQL condition such as motion_score > 2 AND width >= 480"
    return message
