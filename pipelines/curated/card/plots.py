"""Each score of a selection before and after it, as a histogram."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.base.files import writing
from curate.base.sql import quoted
from curate.base.store.files import database
from curate.selection.selection import Selection
from pipelines.dataset.columns import score_columns, unit_of

INK, MUTED, GRID = "#22272e", "#8b949e", "#e6e8eb"
KEPT, DROPPED = "#2a7f62", "#d8a48f"
BINS = 48
DERIVED = {"seconds": "end_time - start_time"}


def plot_scores(clips: str, schema: pa.Schema, selection: Selection, folder: Path) -> list[dict[str, Any]]:
    """A histogram per score that has values: all clips and kept ones, with the thresholds. [{column, file}], those filtered by first."""
    plt = pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    db = database()
    db.execute(f"CREATE VIEW kept AS SELECT * FROM {selection.kept_sql}").fetchall()
    made = []
    asked = [f.column for f in selection.filters]
    for name in sorted([*score_columns(schema), *DERIVED], key=lambda name: name not in asked):
        counts = _counts(db, clips, DERIVED.get(name, quoted(name)))
        if counts is None:
            continue
        figure, axes = plt.subplots(figsize=(6.4, 2.6))
        figure.subplots_adjust(left=0.085, right=0.99, top=0.89, bottom=0.17)
        _bars(axes, *counts)
        _thresholds(axes, selection, name)
        _label(axes, name, "s" if name in DERIVED else unit_of(schema, name))
        with writing(folder):
            figure.savefig(folder / f"{name}.png", dpi=130, metadata={"Software": None})
        plt.close(figure)
        made.append({"column": name, "file": f"{name}.png"})
    return made


def _counts(db: duckdb.DuckDBPyConnection, clips: str, column: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(edges [BINS + 1], counts [2, BINS] of all clips and of kept ones); None where there is one value or none.

    The last bin holds the tail. The database counts, as there may be many clips.
    """
    values = f"""SELECT ({column})::DOUBLE AS value, clip_id IN (SELECT clip_id FROM kept) AS kept
                 FROM {clips} WHERE isfinite(({column})::DOUBLE)"""
    found = f"SELECT min(value), max(value), quantile_cont(value, 0.995) FROM ({values})"
    low, largest, high = db.execute(found).fetchall()[0]
    if low is None or low == largest:
        return None
    high = high if high > low else largest
    counts = np.zeros((2, BINS), np.int64)
    place = f"least(greatest(floor((value - {low!r}) / {high - low!r} * {BINS}), 0), {BINS - 1})::INTEGER"
    for where, kept, count in db.execute(f"SELECT {place}, kept, count(*) FROM ({values}) GROUP BY ALL").fetchall():
        counts[0, where] += count
        counts[1, where] += count * kept
    return np.linspace(low, high, BINS + 1), counts


def _bars(axes: Any, edges: np.ndarray, counts: np.ndarray) -> None:
    """All clips behind the kept ones."""
    dropped = int(counts[0].sum() - counts[1].sum())
    axes.stairs(counts[0], edges, fill=True, color=DROPPED, label=f"dropped ({dropped:,})")
    axes.stairs(counts[1], edges, fill=True, color=KEPT, label=f"kept ({int(counts[1].sum()):,})")
    axes.set_ylim(bottom=0)
    axes.yaxis.get_major_locator().set_params(integer=True)


def _thresholds(axes: Any, selection: Selection, name: str) -> None:
    for chosen, step in zip(selection.filters, selection.steps, strict=True):
        if chosen.column == name:
            axes.axvline(step.threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.annotate(
                step.name.split("=")[0].replace(f" {name}", "") + f" {step.threshold:.3g}",
                (step.threshold, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -10),
                textcoords="offset points", fontsize=8, color=INK,
            )  # fmt: skip


def _label(axes: Any, name: str, unit: str) -> None:
    axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(unit, fontsize=8, color=MUTED)
    axes.set_ylabel("clips", fontsize=8, color=MUTED)
    axes.tick_params(labelsize=8, colors=MUTED, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def pyplot():
    """matplotlib.pyplot, for pictures in files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
