"""Statistics of a dataset for `winnow stats`: the funnel, quantiles of scores, failures by reason, time by stage."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.base.sql import literal, quoted
from curate.base.store import Store, store_of
from curate.base.store.files import database, opened, readable_by_sql
from curate.selection.filters import Filter, SelectionError
from curate.selection.selection import select
from pipelines.dataset.columns import score_columns, unit_of
from pipelines.dataset.dataset import Dataset

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
HELD = 500_000_000  # bytes of values at once
HEADS = ("min", "5%", "25%", "50%", "75%", "95%", "max")


class StatisticsError(Exception):
    """A folder that holds no dataset. One line, with the fix."""


@dataclass(frozen=True)
class Score:
    """quantiles: at QUANTILES, [] where no clip has a value. nulls: clips without one."""

    column: str
    unit: str
    quantiles: list[float]
    nulls: int


@dataclass
class Statistics:
    """kind: "annotated" or "curated". videos: units by status. footage: hours of the videos that could be used.

    funnel: as in selection.json. failures: (where, reason, count): "video", the stage that failed on clips, or "cut".
    seconds: (stage, seconds, share of all).
    """

    kind: str
    path: str
    clips: int
    hours: float
    videos: dict[str, int] = field(default_factory=dict)
    footage: float | None = None
    funnel: list[dict[str, Any]] = field(default_factory=list)
    no_funnel: str | None = None
    before: tuple[int, float] = (0, 0.0)
    scores: list[Score] = field(default_factory=list)
    failures: list[tuple[str, str, int]] = field(default_factory=list)
    warnings: list[tuple[str, int]] = field(default_factory=list)
    seconds: list[tuple[str, float, float]] = field(default_factory=list)


def read(
    place: str | os.PathLike[str], filters: Sequence[Filter] | None = None, *, why_null: Mapping[str, str] | None = None
) -> Statistics:
    """Statistics of an annotated or a curated dataset, at a path or URL.

    filters: for an annotated one, the selection whose funnel is wanted. A curated one has its own.
    Raises StatisticsError, and what Dataset and select raise.
    """
    store = store_of(place)
    if store.exists("selection.json"):
        return _curated(store)
    if not store.exists("dataset.json"):
        raise StatisticsError(
            f"{place}: neither an annotated nor a curated dataset (no dataset.json, no selection.json); "
            "name a folder or URL that winnow annotate, select or run made"
        )
    return _annotated(Dataset(place), filters, why_null)


def _annotated(dataset: Dataset, filters: Sequence[Filter] | None, why_null: Mapping[str, str] | None) -> Statistics:
    db, clips, videos = database(), dataset.clips_sql, dataset.videos_sql
    count, hours = db.execute(
        f"SELECT count(*), coalesce(sum(end_time - start_time), 0) / 3600 FROM {clips}"
    ).fetchall()[0]
    found = Statistics("annotated", str(dataset.store), count, hours, before=(count, hours))
    found.videos = dict(db.execute(f"SELECT status, count(*) FROM {videos} GROUP BY 1 ORDER BY 1 DESC").fetchall())
    facts = [row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {videos}").fetchall()]
    if "duration" in facts:
        per_video = f"SELECT {footage_sql(facts)} AS d FROM {videos} WHERE status = 'ok' GROUP BY video_id"
        found.footage = db.execute(f"SELECT coalesce(sum(d), 0) / 3600 FROM ({per_video})").fetchall()[0][0]
    failed = f"SELECT 'video', error, count(*) FROM {videos} WHERE status = 'failed' GROUP BY ALL ORDER BY 3 DESC, 2"
    of_clips = f"""SELECT e.key, e.value, count(*) FROM (SELECT unnest(map_entries(errors)) AS e FROM {clips})
                   GROUP BY ALL ORDER BY 3 DESC, 1, 2"""
    found.failures = db.execute(failed).fetchall() + db.execute(of_clips).fetchall()
    warned = f"SELECT w, count(*) FROM (SELECT unnest(warnings) AS w FROM {videos}) GROUP BY ALL ORDER BY 2 DESC, 1"
    found.warnings = db.execute(warned).fetchall()
    spent = f"""SELECT e.key, sum(e.value) FROM (SELECT unnest(map_entries(seconds)) AS e FROM {videos})
                GROUP BY 1 ORDER BY 2 DESC, 1"""
    rows = db.execute(spent).fetchall()
    total = sum(seconds for _, seconds in rows) or 1.0
    found.seconds = [(stage, seconds, seconds / total) for stage, seconds in rows]
    found.scores = _scores(db, clips, dataset.schema("clips"), count)
    if filters and count:
        try:
            found.funnel = select(clips, filters, why_null=why_null).to_dict()["funnel"]
        except SelectionError as error:  # e.g. a stage of the selection has not run yet: show the rest
            found.no_funnel = str(error)
    return found


def footage_sql(columns: Collection[str]) -> str:
    """SQL for the seconds of pictures of a video, over the rows of its units: decoded footage, else the header's duration."""
    return "coalesce(sum(footage), any_value(duration))" if "footage" in columns else "any_value(duration)"


def _curated(root: Store) -> Statistics:
    try:
        about = json.loads(root.read("selection.json"))
        shards = [entry.name for entry in root.list("data/train-") if entry.name.endswith(".parquet")]
        files = sorted(root.where(name) for name in shards)
        made, tables = (
            about["curated"],
            "format" not in about.get("request", {}),
        )  # a selection in Parquet records no format
        schema = None
        if tables:
            with opened(files[0]) as stream:
                schema = pq.read_schema(stream)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise StatisticsError(f"{root}: damaged ({type(error).__name__}: {error}); run winnow select again") from None
    found = Statistics("curated", str(root), made["clips"], made["hours"], before=(about["clips"], about["hours"]))
    found.funnel = about["funnel"]
    reasons: dict[str, int] = {}
    for failure in made["failed"]:
        reasons[failure["reason"]] = reasons.get(failure["reason"], 0) + 1
    found.failures = [("cut", reason, count) for reason, count in sorted(reasons.items(), key=lambda item: -item[1])]
    if tables:
        listed = ", ".join(literal(readable_by_sql(file)) for file in files)
        found.scores = _scores(database(), f"read_parquet([{listed}])", schema, made["clips"])
    return found


def _scores(db: duckdb.DuckDBPyConnection, clips: str, schema: Any, count: int) -> list[Score]:
    """As many columns in one scan as have room: quantiles hold every value. A value that is not finite counts as null, as
    filters have it."""
    names, found = score_columns(schema), []
    at_once = max(1, HELD // (8 * max(1, count)))
    for some in (names[i : i + at_once] for i in range(0, len(names), at_once)):
        parts = []
        for name in some:
            value = f"CASE WHEN isfinite({quoted(name)}::DOUBLE) THEN {quoted(name)}::DOUBLE END"
            parts += [f"quantile_cont({value}, {list(QUANTILES)})", f"count({value})"]
        row = db.execute(f"SELECT {', '.join(parts)} FROM {clips}").fetchall()[0]
        found += [
            Score(name, unit_of(schema, name), row[2 * i] or [], count - row[2 * i + 1]) for i, name in enumerate(some)
        ]
    return found


def show(found: Statistics, console: Console) -> None:
    """Print it, as tables."""
    line = f"{found.path}: {found.clips:,} clips, {clock(found.hours * 3600)} of footage"
    if found.kind == "curated":
        line += f", selected from {found.before[0]:,} clips, {clock(found.before[1] * 3600)}"
    else:
        units = ", ".join(f"{count:,} {status}" for status, count in found.videos.items())
        line += f" | videos: {units}" + (f", {clock(found.footage * 3600)} usable" if found.footage is not None else "")
    console.print(Text(line, style="bold"))
    if found.funnel:
        console.print(funnel_table(found.funnel, found.before))
    if found.no_funnel:
        console.print(Text(f"no funnel: {found.no_funnel}", style="yellow"))
    _print(console, "Scores", ["column", *HEADS, "null"], [
        [s.column, *(short(q) for q in s.quantiles), *[""] * (len(HEADS) - len(s.quantiles)), f"{s.nulls:,}"]
        for s in found.scores
    ], left=(0,))  # fmt: skip
    rows = [[where, reason, f"{count:,}"] for where, reason, count in found.failures]
    _print(console, "Failures", ["where", "reason", "count"], rows, left=(0, 1))
    _print(console, "Warnings", ["reason", "count"], [[text, f"{n:,}"] for text, n in found.warnings], left=(0,))
    rows = [[stage, f"{seconds:.1f}", f"{share:.0%}"] for stage, seconds, share in found.seconds]
    _print(console, "Time", ["stage", "seconds", "share"], rows, left=(0,))


def clock(seconds: float) -> str:
    """A duration as 1:02:03, 2:03 or 4.1 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def short(value: float) -> str:
    """Three significant digits, without an exponent in the range of the scores."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.4f}"


def funnel_table(funnel: Sequence[Mapping[str, Any]], before: tuple[int, float]) -> Table:
    """A funnel as in selection.json (`Selection.to_dict()["funnel"]`). before: clips and hours of the whole dataset."""
    table = Table(title="Funnel", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("filter")
    table.add_column("keeps", style="dim")
    for head in ("alone\nfails", "alone\nnull", "alone\nfootage", "in order\nclips left", "in order\nfootage", "kept"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_row("all clips", "", "", "", "", f"{before[0]:,}", clock(before[1] * 3600), "100%")
    for step in funnel:
        alone, left = step["alone"], step["in_order"]
        share = left["remaining"] / before[0] if before[0] else 0.0
        table.add_row(
            Text(step["filter"]),
            Text(step["condition"] if step["threshold"] is not None else ""),
            f"{alone['failing']:,}", f"{alone['null']:,}", clock(alone["hours"] * 3600),
            f"{left['remaining']:,}", clock(left["hours"] * 3600), f"{share:.0%}",
        )  # fmt: skip
    return table


def _print(console: Console, title: str, heads: list[str], rows: list[list[str]], left: tuple[int, ...]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i in left else "right", no_wrap=i == 0 or i not in left)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(table)
