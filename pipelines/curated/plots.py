"""Pictures of a selection: each score before and after, and a sheet of stills, kept and dropped, with the reasons."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from PIL import Image

from curate.base.files import writing
from curate.base.sql import quoted
from curate.selection.selection import Selection

INK, MUTED, GRID = "#22272e", "#8b949e", "#e6e8eb"
KEPT, DROPPED = "#2a7f62", "#d8a48f"
BINS = 48
NOT_SCORES = {
    "unit",
    "start_time",
    "end_time",
    "start_frame",
    "end_frame",
    "shot_start_time",
    "shot_end_time",
    "_seconds",
}
DERIVED = {"seconds": "end_time - start_time"}


def score_columns(schema: pa.Schema) -> list[str]:
    """Numeric columns of clips that say something of them, in the table's order."""
    numeric = (pa.types.is_floating, pa.types.is_integer)
    return [f.name for f in schema if f.name not in NOT_SCORES and any(test(f.type) for test in numeric)]


def plot_scores(clips: str, schema: pa.Schema, selection: Selection, folder: Path) -> list[dict[str, Any]]:
    """A histogram per score that has values: all clips and kept ones, with the thresholds. [{column, file}], those filtered by first."""
    plt = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    db = duckdb.connect()
    db.register("kept", pa.table({"clip_id": selection.kept_ids()}))
    made = []
    asked = [f.column for f in selection.filters]
    for name in sorted([*score_columns(schema), *DERIVED], key=lambda name: name not in asked):
        column = DERIVED.get(name, quoted(name))
        values = db.execute(
            f"""SELECT ({column})::DOUBLE AS value, clip_id IN (SELECT clip_id FROM kept) AS kept
                FROM {clips} WHERE isfinite(({column})::DOUBLE)"""
        ).fetchnumpy()
        value, kept = np.asarray(values["value"]), np.asarray(values["kept"], bool)
        if not len(value) or value.min() == value.max():
            continue
        unit = _unit(schema, name)
        figure, axes = plt.subplots(figsize=(6.4, 2.6))
        figure.subplots_adjust(left=0.085, right=0.99, top=0.89, bottom=0.17)
        low, high = np.quantile(value, [0.0, 0.995])
        edges = np.linspace(low, high if high > low else value.max(), BINS + 1)
        inside = np.clip(value, edges[0], edges[-1])  # the last bin holds the tail
        for part, colour, what, members in ((inside, DROPPED, "dropped", ~kept), (inside[kept], KEPT, "kept", kept)):
            counts = np.histogram(part, edges)[0]
            axes.stairs(counts, edges, fill=True, color=colour, label=f"{what} ({np.count_nonzero(members):,})")
        axes.set_ylim(bottom=0)
        axes.yaxis.get_major_locator().set_params(integer=True)
        for chosen, step in zip(selection.filters, selection.steps, strict=True):
            if chosen.column == name:
                axes.axvline(step.threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
                axes.annotate(
                    step.name.split("=")[0].replace(f" {name}", "") + f" {step.threshold:.3g}",
                    (step.threshold, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -10),
                    textcoords="offset points", fontsize=8, color=INK,
                )  # fmt: skip
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=INK)
        axes.set_xlabel(unit, fontsize=8, color=MUTED)
        axes.set_ylabel("clips", fontsize=8, color=MUTED)
        axes.tick_params(labelsize=8, colors=MUTED, length=0)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc="upper right")
        with writing(folder):
            figure.savefig(folder / f"{name}.png", dpi=130, metadata={"Software": None})
        plt.close(figure)
        made.append({"column": name, "file": f"{name}.png"})
    return made


def contact_sheet(clips: str, selection: Selection, path: Path, *, columns: int = 6, size: int = 200) -> bool:
    """A row of stills of kept clips, and one for each filter of clips that it dropped first. False: there are no
    stills.

    The clips of a row are those whose md5("sheet:clip_id") is lowest: a fair sample, the same every time. size: px a
    tile is wide.
    """
    plt = _pyplot()
    db = duckdb.connect()
    db.register("verdicts", selection.verdicts)
    passed = [f"coalesce(filter_{i}, false)" for i in range(len(selection.filters))]
    first = " ".join(f"WHEN NOT {test} THEN {i}" for i, test in enumerate(passed))
    group = f"CASE {first} ELSE -1 END" if passed else "-1"
    scores = {f.column for f in selection.filters if f.column}
    wanted = ", ".join(["s.clip_id", "s.grp", "c.still_middle", *(f"c.{quoted(name)}" for name in sorted(scores))])
    rows = db.execute(
        f"""WITH grouped AS (SELECT clip_id, {group} AS grp FROM verdicts),
                 s AS (SELECT clip_id, grp FROM grouped
                       QUALIFY row_number() OVER (PARTITION BY grp ORDER BY md5('sheet:' || clip_id)) <= {int(columns)})
            SELECT {wanted} FROM {clips} c JOIN s USING (clip_id) WHERE c.still_middle IS NOT NULL
            ORDER BY grp, md5('sheet:' || s.clip_id)"""
    )
    names = [column[0] for column in rows.description]
    found = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
    groups = [number for number in range(-1, len(selection.filters)) if any(row["grp"] == number for row in found)]
    if not groups:
        return False
    tile, height = size / 100, size / 100 * 9 / 16
    figure = plt.figure(
        figsize=(columns * (tile + 0.08) + 0.3, len(groups) * (height + 0.62) + 0.15), facecolor="white"
    )
    width, tall = figure.get_size_inches()
    for line, number in enumerate(groups):
        top = tall - 0.12 - line * (height + 0.62)
        title, colour = "kept", KEPT
        count = selection.kept
        if number >= 0:
            before = selection.steps[number - 1].remaining if number else selection.clips
            count = before - selection.steps[number].remaining
            title, colour = f"dropped by {selection.steps[number].name}", "#b3543a"
        noun = "clip" if count == 1 else "clips"
        figure.text(0.15 / width, (top - 0.16) / tall, title, fontsize=11, fontweight="bold", color=colour)
        figure.text(1 - 0.15 / width, (top - 0.16) / tall, f"{count:,} {noun}", fontsize=9, color=MUTED, ha="right")
        members = [row for row in found if row["grp"] == number]
        for place, row in enumerate(members[:columns]):
            left = 0.15 + place * (tile + 0.08)
            axes = figure.add_axes((left / width, (top - 0.26 - height) / tall, tile / width, height / tall))
            axes.imshow(_cropped(row["still_middle"], 16 / 9))
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(colour)
                spine.set_linewidth(1.5)
            axes.text(
                0, -0.04, _said(row, selection, number), transform=axes.transAxes, fontsize=7.5, color=MUTED, va="top"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path.parent):
        figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return True


def _said(row: dict[str, Any], selection: Selection, number: int) -> str:
    """Under a still: the score that dropped the clip; of a kept one, the first score asked for."""
    columns = [f.column for f in selection.filters if f.column]
    name = selection.filters[number].column if number >= 0 else (columns[0] if columns else "")
    if not name:
        return ""
    value = row[name]
    return f"{name} is null" if value is None else f"{name} {value:.3g}"


def _cropped(jpeg: bytes, aspect: float) -> np.ndarray:
    """The middle of a picture, of that aspect ratio."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    width, height = image.size
    wide, tall = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - wide) // 2, (height - tall) // 2
    return np.asarray(image.crop((left, top, left + wide, top + tall)))


def _unit(schema: pa.Schema, name: str) -> str:
    if name in DERIVED:
        return "s"
    return ((schema.field(name).metadata or {}).get(b"unit") or b"").decode()


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
