"""A dataset as it was when it was read: the tables that answer for it, and what the page needs to begin."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.base.store import locate
from curate.selection.filters import SelectionError
from pipelines.inspector.data.blocks import bisected
from pipelines.inspector.data.choice import Chooser, plain
from pipelines.inspector.data.columns import Columns
from pipelines.inspector.data.inspected import Inspected, open_inspected
from pipelines.inspector.data.likeness import Likeness, SentenceEncoder
from pipelines.inspector.data.listing import Listing, Page
from pipelines.inspector.data.media import ClipCache, Media
from pipelines.inspector.data.overview import overview

SLOTS = 7  # stills along a histogram
AT_ONCE = 6  # stills that are read at a time, as a browser asks for them


@dataclass
class Loaded:
    """columns and what hangs on them are None where the dataset has videos but no clips. about: what the page needs
    once."""

    inspected: Inspected
    about: dict[str, Any]
    columns: Columns | None = None
    chooser: Chooser | None = None
    listing: Listing | None = None
    media: Media | None = None


def load(root: str, clips: ClipCache, encoder: SentenceEncoder) -> Loaded:
    """Read the dataset at a path or URL. Raises InspectError, SelectionError, DiskError."""
    inspected = open_inspected(root)
    try:
        columns = Columns(inspected, clips.folder)
    except SelectionError as error:
        if "no clips" not in str(error):
            raise
        return Loaded(inspected, described(inspected) | {"empty": str(error)})
    chooser = Chooser(columns)
    likeness = Likeness(columns, encoder)
    return Loaded(
        inspected,
        described(inspected, columns, chooser, likeness),
        columns,
        chooser,
        Listing(chooser, likeness),
        Media(columns, clips),
    )


def warm(loaded: Loaded) -> None:
    """Answer what the first page will ask, so that it need not wait."""
    if loaded.columns is None:
        return
    choice = loaded.chooser.choose(loaded.inspected.filters)
    asked = [v.column for v in choice.verdicts if v.column in loaded.chooser.axes]
    clips = [row["id"] for row in loaded.listing.page(choice, Page())["rows"][:30]]
    for name in list(dict.fromkeys([*asked, *loaded.chooser.axes]))[: max(4, len(asked))]:
        loaded.chooser.histogram(name, choice)
        along = strip(loaded.columns, loaded.chooser, name, SLOTS)
        loaded.about.setdefault("strips", {})[name] = along
        clips += [clip for clip in along if clip]
    with ThreadPoolExecutor(AT_ONCE) as several:
        list(several.map(lambda clip: loaded.media.still(loaded.columns.place(clip), "middle"), clips))


def described(
    inspected: Inspected,
    columns: Columns | None = None,
    chooser: Chooser | None = None,
    likeness: Likeness | None = None,
) -> dict[str, Any]:
    """What the page needs once."""
    name, above = inspected.name, locate(inspected.beside)[1]
    about: dict[str, Any] = {
        "name": f"{above}/{name}" if name in ("annotated", "curated") else name,
        "path": inspected.root,
        "kind": inspected.kind,
        "pack": str(inspected.config.get("pack", "")),
        "clips": columns.count if columns else 0,
        "hours": chooser.total_hours if chooser else 0.0,
        "filters": [plain(chosen) for chosen in inspected.filters],
        "scores": [],
        "nothing": [],
        "captions": columns.captions if columns else [],
        "likeness": bool(likeness and likeness.possible),
        "sentence": bool(likeness and likeness.possible and inspected.config.get("embedder")),
        "overview": overview(inspected, columns),
    }
    for name, values in columns.values.items() if columns else ():
        nulls = columns.nulls(name)
        if axis := chooser.axes.get(name):
            about["scores"].append({"name": name, **columns.notes(name), **axis.plain(), "nulls": nulls})
        else:
            about["nothing"].append({"name": name, "why": _no_spread(inspected, name, values, nulls)})
    return about


def _no_spread(inspected: Inspected, name: str, values: np.ndarray, nulls: int) -> str:
    """Why a score has no histogram."""
    if nulls < len(values):
        return f"{values[np.argmin(np.isnan(values))]:g} for every clip that has it"
    return inspected.why_null.get(name, "null for every clip: the stage that fills it was not run, or failed")


def strip(columns: Columns, chooser: Chooser, name: str, slots: int) -> list[str | None]:
    """Ids of clips that stand for evenly spaced places along a histogram: the one closest to each middle, None where none
    lies near."""
    axis, order, values = chooser.axes[name], columns.order(name), columns.values[name]
    width = (axis.high - axis.low) / slots
    found: list[str | None] = []
    for slot in range(slots):
        low, high = axis.low + slot * width, axis.low + (slot + 1) * width
        first = 0 if slot == 0 else bisected(values, order, low)
        last = len(order) if slot == slots - 1 else bisected(values, order, high)
        if first >= last:
            found.append(None)
            continue
        middle = int(np.clip(bisected(values, order, (low + high) / 2), first, last - 1))
        found.append(columns.id(int(order[middle])))
    return found
