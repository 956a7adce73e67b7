"""A user's SQL condition on clips: one check for `winnow select`, the inspector and training.

A condition runs in an in-memory DuckDB that holds a table `clips` and has no way to files, network, settings or Python
objects. It must be deterministic: no randomness, clock, session or row order, so that the same condition always keeps
the same clips.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import duckdb

__all__ = [
    "NO_EXTENSIONS",
    "ConditionError",
    "connect",
    "depends_on_order",
    "explain",
    "literal",
    "lock",
    "message_of",
    "nearest",
    "nondeterministic",
    "quoted",
    "verdict",
]

NONDETERMINISTIC_FUNCTIONS = """SELECT DISTINCT function_name FROM duckdb_functions()
    WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY') OR macro_definition ILIKE '%current_timestamp%'"""
# DuckDB lists these as stable, or parses them as keywords without (). `age(x)` with one argument is a special case.
CLOCK = frozenset(
    [
        "current_date",
        "current_time",
        "current_timestamp",
        "localtime",
        "localtimestamp",
        "current_localtime",
        "current_localtimestamp",
    ]
)
SESSION = frozenset(["current_user", "session_user", "user", "current_role", "rowid", "version"])


class ConditionError(Exception):
    """A condition that cannot be used: one line, the reason and the fix."""


NO_EXTENSIONS = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


def connect() -> duckdb.DuckDBPyConnection:
    """An empty in-memory database, to be filled and then locked."""
    return duckdb.connect(config=dict(NO_EXTENSIONS))


def lock(db: duckdb.DuckDBPyConnection) -> None:
    """Cut the database off from files, network, Python objects and settings."""
    for setting in ("python_enable_replacements=false", "enable_external_access=false", "lock_configuration=true"):
        db.execute(f"SET {setting}").fetchall()


def depends_on_order(db: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Whether a condition looks at other rows than its own: then it has to see them in a fixed order."""
    tree = db.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{sql}\n) FROM clips"]).fetchall()[0][0]
    inner = json.loads(tree).get("statements", [{}])[0].get("node", {}).get("select_list", [])
    return any(node.get("class") in ("WINDOW", "SUBQUERY") for node in _nodes(inner))


def verdict(db: duckdb.DuckDBPyConnection, condition: str, key: str, columns: Sequence[str]) -> Any:
    """A relation of the table `clips` with the columns `key` and `verdict` (boolean, or null).

    columns: those that a condition may use, for error messages. Raises ConditionError: an unknown column, bad SQL, not
    boolean, or not deterministic.
    """
    try:
        if found := nondeterministic(db, condition, columns):
            raise ConditionError(
                f"{', '.join(found)} would give another answer each time or place; compare columns with constants"
                ", and take a random share by hash(clip_id) % 10 = 0"
            )
        # As an expression of a relation, a condition cannot inject a second statement.
        relation = db.table("clips").select(
            duckdb.ColumnExpression(key), duckdb.SQLExpression(condition).alias("verdict")
        )
        kind = str(relation.types[-1])
        if len(relation.types) != 2 or kind not in ("BOOLEAN", '"NULL"', "NULL"):
            raise ConditionError(f"not a condition but {kind}; compare it with something")
    except duckdb.Error as error:
        raise ConditionError(explain(error, columns)) from error
    return relation


def nondeterministic(db: duckdb.DuckDBPyConnection, sql: str, columns: Iterable[str]) -> list[str]:
    """The parts of a condition that are not deterministic, or depend on which columns are loaded, as written. [] where it
    does not parse: running it gives the error."""
    tree = db.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{sql}\n) FROM clips"]).fetchall()[0][0]
    known = {row[0] for row in db.execute(NONDETERMINISTIC_FUNCTIONS).fetchall()} | CLOCK | SESSION
    names, found = {name.lower() for name in columns}, set()
    for node in _nodes(json.loads(tree)):
        function = str(node.get("function_name", "")).lower()
        arguments = node.get("arguments", node.get("children", ()))
        column = node.get("column_names") or [""]
        if function in known or (function == "age" and len(arguments) == 1):
            found.add(f"{function}()")
        elif len(column) == 1 and column[0].lower() in (CLOCK | SESSION) - names:
            found.add(column[0])
        elif node.get("class") == "STAR" and node.get("columns"):
            found.add("COLUMNS()")
        elif node.get("sample"):
            found.add("SAMPLE")
    return sorted(found)


def explain(error: duckdb.Error, columns: Sequence[str]) -> str:
    """DuckDB's error about a condition, as one line with the fix."""
    message = message_of(error)
    unknown = re.search(r'Referenced column "([^"]+)" not found', message)
    if unknown:
        return f"no column {unknown[1]}; {nearest(unknown[1], columns)}"
    if isinstance(error, duckdb.PermissionException):
        return "a condition may not reach files, network or settings; use the columns of the clips only"
    if re.search(r"Table with name .* does not exist", message):
        return f"{message}; the only table is clips"
    if isinstance(error, duckdb.ParserException):
        return f"{message}; write one SQL condition such as motion_score > 2 AND width >= 480"
    return message


def nearest(name: str, columns: Sequence[str]) -> str:
    """Suggests the columns with the closest names."""
    found = difflib.get_close_matches(name.lower(), columns, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(found)}?" if found else f"columns are {', '.join(columns)}"


def quoted(name: str) -> str:
    """A column's name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: object) -> str:
    """A string or path as an SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"


def message_of(error: Exception) -> str:
    """The first line of a DuckDB error, without the error class."""
    return re.sub(r"^[A-Za-z ]+ Error: ", "", str(error).strip().split("\n")[0])


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(tree, dict):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(part)
