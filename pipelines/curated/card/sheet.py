"""A sheet of stills of a selection: clips kept, and clips dropped with the filter that dropped them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curate.base.files import writing
from curate.base.store.files import database
from curate.selection.selection import Selection, quoted
from pipelines.curated.card.plots import KEPT, MUTED, pyplot

COLUMNS, TILE = 6, 2.0  # tiles in a row; inches a tile is wide
HEIGHT, GAP, HEAD, MARGIN = (
    TILE * 9 / 16,
    0.08,
    0.62,
    0.15,
)  # inches: of a tile, between tiles, above a row, at the edges
DROPPED_BY = "#b3543a"


def contact_sheet(clips: str, selection: Selection, path: Path) -> bool:
    """A row of stills of kept clips, and one for each filter of clips that it dropped first. False: there are no
    stills.

    The clips of a row are those whose md5("sheet:clip_id") is lowest: a fair sample, the same every time.
    """
    plt, found = pyplot(), _sample(clips, selection)
    groups = [number for number in range(-1, len(selection.filters)) if any(row["grp"] == number for row in found)]
    if not groups:
        return False
    size = COLUMNS * (TILE + GAP) + 2 * MARGIN, len(groups) * (HEIGHT + HEAD) + MARGIN
    figure = plt.figure(figsize=size, facecolor="white")
    tall = figure.get_size_inches()[1]
    for line, number in enumerate(groups):
        members = [row for row in found if row["grp"] == number]
        _row(figure, tall - 0.12 - line * (HEIGHT + HEAD), selection, number, members[:COLUMNS])
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path.parent):
        figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return True


def _sample(clips: str, selection: Selection) -> list[dict[str, Any]]:
    """clip_id, grp (index of the first filter that dropped it, -1 where none did), still and scores of clips of each group."""
    db = database()
    db.execute(f"CREATE VIEW verdicts AS SELECT * FROM {selection.verdicts_sql}").fetchall()
    passed = [f"coalesce(filter_{i}, false)" for i in range(len(selection.filters))]
    first = " ".join(f"WHEN NOT {test} THEN {i}" for i, test in enumerate(passed))
    group = f"CASE {first} ELSE -1 END" if passed else "-1"
    scores = {f.column for f in selection.filters if f.column}
    wanted = ", ".join(["s.clip_id", "s.grp", "c.still_middle", *(f"c.{quoted(name)}" for name in sorted(scores))])
    rows = db.execute(
        f"""WITH grouped AS (SELECT clip_id, {group} AS grp FROM verdicts),
                 s AS (SELECT clip_id, grp FROM grouped
                       QUALIFY row_number() OVER (PARTITION BY grp ORDER BY md5('sheet:' || clip_id)) <= {COLUMNS})
            SELECT {wanted} FROM {clips} c JOIN s USING (clip_id) WHERE c.still_middle IS NOT NULL
            ORDER BY grp, md5('sheet:' || s.clip_id)"""
    )
    names = [column[0] for column in rows.description]
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]


def _row(figure: Any, top: float, selection: Selection, number: int, members: Sequence[dict[str, Any]]) -> None:
    """The heading and the tiles of one group. top: inches above the bottom of the figure."""
    width, tall = figure.get_size_inches()
    title, colour, count = "kept", KEPT, selection.kept
    if number >= 0:
        before = selection.steps[number - 1].remaining if number else selection.clips
        count = before - selection.steps[number].remaining
        title, colour = f"dropped by {selection.steps[number].name}", DROPPED_BY
    noun = "clip" if count == 1 else "clips"
    at = (top - 0.16) / tall
    figure.text(MARGIN / width, at, title, fontsize=11, fontweight="bold", color=colour)
    figure.text(1 - MARGIN / width, at, f"{count:,} {noun}", fontsize=9, color=MUTED, ha="right")
    for place, row in enumerate(members):
        left = MARGIN + place * (TILE + GAP)
        axes = figure.add_axes((left / width, (top - 0.26 - HEIGHT) / tall, TILE / width, HEIGHT / tall))
        axes.imshow(_cropped(row["still_middle"], 16 / 9))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(colour)
            spine.set_linewidth(1.5)
        score = _score(row, selection, number)
        axes.text(0, -0.04, score, transform=axes.transAxes, fontsize=7.5, color=MUTED, va="top")


def _score(row: dict[str, Any], selection: Selection, number: int) -> str:
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
