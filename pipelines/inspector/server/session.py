"""What the server holds: the dataset as it was when it was last read, and everything made of it; or what is wrong with it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.selection.filters import SelectionError
from pipelines.dataset import labels
from pipelines.inspector.data.choice import Chooser, plain
from pipelines.inspector.data.columns import SECONDS, Columns
from pipelines.inspector.data.inspected import Source, SourceError, open_source, signature
from pipelines.inspector.data.likeness import Encoder, Likeness
from pipelines.inspector.data.listing import Grid, Page
from pipelines.inspector.data.media import ClipCache, Media
from pipelines.inspector.data.overview import overview
from pipelines.inspector.panels.clip.film import LENGTH_NOTES
from pipelines.inspector.panels.take.taking import Taker

LARGE = 400_000  # clips
SLOTS = 7  # stills along a histogram
log = logging.getLogger(__name__)


@dataclass
class Loaded:
    """columns and what hangs on them are None where the dataset has videos but no clips."""

    source: Source
    about: dict[str, Any]
    columns: Columns | None = None
    chooser: Chooser | None = None
    grid: Grid | None = None
    media: Media | None = None


class Session:
    """state: "loading", "ready" or "wrong" (then `wrong` says what). A reload leaves the old one in place until it is done."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self.clips, self.encoder, self.taker = ClipCache(cache), Encoder(), Taker()
        self.lock = threading.Lock()
        self.loaded: Loaded | None = None
        self.state, self.wrong, self.seen = "loading", "", ""
        self._closing = threading.Event()
        self._later: list[threading.Thread] = []

    def load(self) -> None:
        """Read the dataset, where it is not what was read last."""
        with self.lock:
            now = signature(self.root)
            if self.state != "loading" and now == self.seen:
                return
            if self.loaded and self.loaded.columns and self.loaded.columns.count > LARGE:
                self.loaded, self.state = None, "loading"  # two of them would be too much memory
            for last in (False, True):  # a writer that replaces shards while they are read: once more
                self.seen = signature(self.root)
                try:
                    loaded = self._read()
                    warm(loaded)
                    self.loaded, self.state, self.wrong = loaded, "ready", ""
                    self._later = [thread for thread in self._later if thread.is_alive()]
                    self._later.append(threading.Thread(target=self._prepare, args=(loaded,), daemon=True))
                    self._later[-1].start()
                    return
                except SourceError as error:
                    self.loaded, self.state, self.wrong = None, "wrong", str(error)
                except SelectionError as error:
                    self.loaded, self.state, self.wrong = None, "wrong", f"{self.root}: {error}"
                except Exception as error:  # a damaged file can fail anywhere; the page says so, and the log where
                    log.exception("the dataset cannot be read")
                    self.loaded, self.state = None, "wrong"
                    self.wrong = f"{self.root}: cannot be read ({type(error).__name__}: {error})"
                if last or self.seen == signature(self.root):
                    return

    @property
    def changed(self) -> bool:
        """The folder is not what was read last."""
        return self.state != "loading" and signature(self.root) != self.seen

    def label(self, place: int, label: str | None, note: str | None) -> labels.Label:
        """Store it, and let the selection see it."""
        now = self.loaded
        unchanged = not self.changed
        said = labels.append(now.source.labels_root, now.columns.ids[place].as_py(), label, note)
        now.columns.set_label(place, said)
        now.chooser.forget("label")
        if unchanged:
            self.seen = signature(self.root)
        return said

    def close(self) -> None:
        self._closing.set()
        for thread in self._later:  # one for each time that the dataset was read
            thread.join(30)
        self.clips.close()
        self.encoder.close()

    def _prepare(self, loaded: Loaded) -> None:
        """What a person may ask for next: a cutter that is up, and the other scores in order."""
        if self._closing.wait(4.0):  # the first page comes first
            return
        self.clips.warm()
        for name in list(loaded.chooser.axes) if loaded.chooser else ():
            if self._closing.is_set():
                return
            loaded.columns.order(name)

    def _read(self) -> Loaded:
        source = open_source(self.root)
        try:
            columns = Columns(source)
        except SelectionError as error:
            if "no clips" not in str(error):
                raise
            return Loaded(source, start(source, None, None, None) | {"empty": str(error)})
        chooser = Chooser(columns)
        likeness = Likeness(columns, self.encoder)
        about = start(source, columns, chooser, likeness)
        return Loaded(source, about, columns, chooser, Grid(chooser, likeness), Media(columns, self.clips))


def warm(loaded: Loaded) -> None:
    """Answer what the first page will ask, so that it need not wait."""
    if loaded.columns is None:
        return
    choice = loaded.chooser.choose(loaded.source.filters)
    asked = [v.column for v in choice.verdicts if v.column in loaded.chooser.axes]
    clips = [row["id"] for row in loaded.grid.page(choice, Page())["rows"][:30]]
    for name in list(dict.fromkeys([*asked, *loaded.chooser.axes]))[: max(4, len(asked))]:
        loaded.chooser.histogram(name, choice)
        along = strip(loaded.columns, loaded.chooser, name, SLOTS)
        loaded.about.setdefault("strips", {})[name] = along
        clips += [clip for clip in along if clip]
    for clip in clips:
        loaded.media.still(loaded.columns.place(clip), "middle")


def start(
    source: Source, columns: Columns | None, chooser: Chooser | None, likeness: Likeness | None
) -> dict[str, Any]:
    """What the page needs once."""
    about: dict[str, Any] = {
        "name": source.root.name
        if source.root.name not in ("annotated", "curated")
        else f"{source.root.parent.name}/{source.root.name}",
        "path": str(source.root),
        "kind": source.kind,
        "pack": str(source.config.get("pack", "")),
        "clips": columns.count if columns else 0,
        "hours": chooser.total_hours if chooser else 0.0,
        "filters": [plain(chosen) for chosen in source.filters],
        "scores": [],
        "nothing": [],
        "captions": columns.captions if columns else [],
        "likeness": bool(likeness and likeness.possible),
        "sentence": bool(likeness and likeness.possible and source.config.get("embedder")),
        "overview": overview(source, columns),
    }
    if not columns:
        return about
    for name, values in columns.values.items():
        notes = LENGTH_NOTES if name == SECONDS else source.field(name)
        axis = chooser.axes.get(name)
        nulls = int((values != values).sum())
        if axis is None:
            if nulls == columns.count:
                why = source.why_null.get(name, "null for every clip: the stage that fills it was not run, or failed")
            else:
                why = f"{values[values == values][0]:g} for every clip that has it"
            about["nothing"].append({"name": name, "why": why})
            continue
        about["scores"].append(
            {
                "name": name,
                **notes,
                "low": axis.low,
                "high": axis.high,
                "min": axis.minimum,
                "max": axis.maximum,
                "whole": axis.whole,
                "counts": axis.counts.tolist(),
                "nulls": nulls,
            }
        )
    return about


def strip(columns: Columns, chooser: Chooser, name: str, slots: int) -> list[str | None]:
    """Ids of clips that stand for evenly spaced places along a histogram: the one closest to each middle, None where none
    lies near."""
    axis, order, values = chooser.axes[name], columns.order(name), columns.values[name]
    ordered, width = values[order].astype(np.float64), (axis.high - axis.low) / slots
    found: list[str | None] = []
    for slot in range(slots):
        low, high = axis.low + slot * width, axis.low + (slot + 1) * width
        first = 0 if slot == 0 else int(np.searchsorted(ordered, low, "left"))
        last = len(ordered) if slot == slots - 1 else int(np.searchsorted(ordered, high, "left"))
        if first >= last:
            found.append(None)
            continue
        middle = int(np.clip(np.searchsorted(ordered, (low + high) / 2), first, last - 1))
        found.append(columns.ids[int(order[middle])].as_py())
    return found
