"""What the job did: hours in, failures by reason, footage by kind, time by stage."""

from __future__ import annotations

import tempfile
from typing import Any

import duckdb

from curate.base.store.files import database
from pipelines.dataset.statistics import footage_sql
from pipelines.inspector.data.columns import Columns
from pipelines.inspector.data.inspected import Inspected

LENGTHS = ((10, "under 10 s"), (60, "10 s to 1 min"), (300, "1 to 5 min"), (1800, "5 to 30 min"), (1e12, "over 30 min"))
MOST = 8


def overview(inspected: Inspected, columns: Columns | None) -> dict[str, Any]:
    """Plain values, made once for each state. Of a curated dataset: what its selection.json says. columns: None where there
    are no clips."""
    with tempfile.TemporaryDirectory(prefix="winnow-overview-") as spilled:
        if columns is None:
            return _overview(inspected, columns, spilled)
        return columns.snapshot.remembered("overview", lambda: _overview(inspected, columns, spilled))


def _overview(inspected: Inspected, columns: Columns | None, spilled: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "videos": {},
        "footage": None,
        "failures": [],
        "warnings": [],
        "seconds": [],
        "kinds": [],
        "made": made_of(inspected),
    }
    if inspected.videos:
        db = database(memory_limit="800MB", threads=2, temp_directory=spilled)
        db.execute(
            f"CREATE TABLE v AS SELECT * EXCLUDE ({', '.join(_long(db, inspected.videos))}) FROM {inspected.videos}"
        ).fetchall()
        _of_videos(db, found)
    if columns is not None and "errors" in columns.held and inspected.kind == "annotated":
        rows = columns.query(
            """SELECT e.key, regexp_replace(e.value, '[0-9]+([.][0-9]+)?', '…', 'g') AS reason, count(*) AS n,
                      arg_min(clip_id, clip_id) AS example
               FROM (SELECT clip_id, unnest(map_entries(errors)) AS e FROM clips WHERE cardinality(errors) > 0)
               GROUP BY ALL ORDER BY n DESC, 1, 2 LIMIT 50"""
        )
        found["failures"] += [
            {"where": where, "reason": reason, "count": count, "clip": clip} for where, reason, count, clip in rows
        ]
    if inspected.kind == "curated":
        counts: dict[str, int] = {}
        for failure in inspected.made["curated"]["failed"]:
            counts[failure["reason"]] = counts.get(failure["reason"], 0) + 1
        found["failures"] += [
            {"where": "cut", "reason": r, "count": n} for r, n in sorted(counts.items(), key=lambda i: -i[1])
        ]
    if not found["kinds"] and columns is not None and {"width", "height", "fps"} <= set(columns.held):
        found["kinds"] = [
            {"title": "resolution", "rows": _of_clips(columns, "width || ' × ' || height")},
            {"title": "frame rate", "rows": _of_clips(columns, "round(fps, 2) || ' fps'")},
            {"title": "clip length", "rows": _of_clips(columns, _length("end_time - start_time"))},
        ]
    return found


def made_of(inspected: Inspected) -> dict[str, Any] | None:
    """The account of a curated dataset: from how much it was selected, by which filters."""
    if inspected.kind != "curated":
        return None
    made = inspected.made
    return {
        "clips": made["clips"],
        "hours": made["hours"],
        "funnel": made["funnel"],
        "dataset": str(made["dataset"]["path"]),
        "copied": made["curated"]["copied"],
        "transcoded": made["curated"]["transcoded"],
    }


def _of_videos(db: duckdb.DuckDBPyConnection, found: dict[str, Any]) -> None:
    names = {row[0] for row in db.execute("DESCRIBE v").fetchall()}
    found["videos"] = dict(db.execute("SELECT status, count(*) FROM v GROUP BY 1 ORDER BY 2 DESC").fetchall())
    rows = db.execute(
        "SELECT error, count(*), min(video_path) FROM v WHERE status = 'failed' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50"
    ).fetchall()
    found["failures"] = [{"where": "video", "reason": r or "", "count": n, "path": path} for r, n, path in rows]
    found["warnings"] = db.execute(
        "SELECT w, count(*) FROM (SELECT unnest(warnings) AS w FROM v) GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20"
    ).fetchall()
    rows = db.execute(
        "SELECT e.key, sum(e.value) FROM (SELECT unnest(map_entries(seconds)) AS e FROM v) GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    total = sum(seconds for _, seconds in rows) or 1.0
    found["seconds"] = [(stage, seconds, seconds / total) for stage, seconds in rows]
    if not {"duration", "width", "height", "fps"} <= names:
        return
    db.execute(
        f"""CREATE TABLE one AS SELECT {footage_sql(names)} AS d, any_value(width) AS width, any_value(height) AS height,
           any_value(fps) AS fps FROM v WHERE status = 'ok' GROUP BY video_id"""
    ).fetchall()
    found["footage"] = db.execute("SELECT coalesce(sum(d), 0) / 3600 FROM one").fetchall()[0][0]
    kinds = (
        ("resolution", "width || ' × ' || height"),
        ("frame rate", "round(fps, 2) || ' fps'"),
        ("video length", _length("d")),
    )
    found["kinds"] = [{"title": title, "rows": _grouped(db, "one", kind, "d")} for title, kind in kinds]


def _of_clips(columns: Columns, kind: str) -> list[dict[str, Any]]:
    return _rows(
        columns.query(
            f"SELECT {kind} AS k, count(*), sum(end_time - start_time) / 3600 AS h FROM clips GROUP BY 1 ORDER BY 3 DESC"
        )
    )


def _grouped(db: duckdb.DuckDBPyConnection, table: str, kind: str, seconds: str) -> list[dict[str, Any]]:
    return _rows(
        db.execute(
            f"SELECT {kind} AS k, count(*), sum({seconds}) / 3600 AS h FROM {table} GROUP BY 1 ORDER BY 3 DESC"
        ).fetchall()
    )


def _rows(rows: list[tuple]) -> list[dict[str, Any]]:
    """The largest, and the others as one."""
    made = [{"kind": kind or "unknown", "count": count, "hours": hours or 0.0} for kind, count, hours in rows[:MOST]]
    if rest := rows[MOST:]:
        made.append(
            {"kind": f"{len(rest)} others", "count": sum(r[1] for r in rest), "hours": sum(r[2] or 0 for r in rest)}
        )
    return made


def _length(seconds: str) -> str:
    cases = " ".join(f"WHEN {seconds} < {limit:.0f} THEN '{name}'" for limit, name in LENGTHS)
    return f"CASE {cases} END"


def _long(db: duckdb.DuckDBPyConnection, videos: str) -> list[str]:
    """Lists a value a frame long, which an overview does not need."""
    rows = db.execute(f"DESCRIBE SELECT * FROM {videos}").fetchall()
    return [row[0] for row in rows if str(row[1]).endswith("[]") and row[0] != "warnings"] or ["file_row_number"]
