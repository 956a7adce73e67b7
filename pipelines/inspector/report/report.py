"""`winnow report`: the inspector's overview as one HTML file that needs nothing else, no script and no network.

Everything from the dataset is escaped text or a JPEG that was decoded and encoded again here.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from PIL import Image

from curate.base.files import write_atomic
from curate.base.store import is_remote, locate, store_of
from pipelines.dataset.statistics import clock, short
from pipelines.inspector.data.blocks import Mask, shuffled, sliced
from pipelines.inspector.data.choice import Choice, Verdict
from pipelines.inspector.data.loaded import SLOTS, Loaded, strip
from pipelines.inspector.data.session import Session
from pipelines.inspector.panels.take import taking

WIDTH, HEIGHT = 480, 84
KEPT_STILLS, DROPPED_STILLS, SEED = 18, 6, 1
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class ReportError(Exception):
    """A report that cannot be made. One line."""


def write_report(dataset: str | Path, out: str | Path) -> str | Path:
    """Write the report of an annotated or a curated dataset to the file or URL `out`. Raises ReportError."""
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(dataset, Path(scratch))
        session.load()
        session.close()
        if session.loaded is None:
            raise ReportError(session.wrong)
        text = html(session.loaded)
    if is_remote(out):
        folder, name = locate(str(out))
        store_of(folder).replace(name, text.encode())
        return str(out)
    write_atomic(Path(out), text.encode())
    return Path(out)


def html(loaded: Loaded) -> str:
    """The page; all that it shows is put together here, and only laid out by the template."""
    pages = Environment(
        loader=PackageLoader("pipelines.inspector", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style = resources.files("pipelines.inspector").joinpath("report", "report.css").read_text(encoding="utf-8")
    shown: dict[str, Any] = {"made": made(loaded.about["overview"]["made"])}
    if loaded.chooser:
        choice = loaded.chooser.choose(loaded.inspected.filters)
        pictures = Pictures(loaded)
        shown |= {
            "head": head(loaded, choice),
            "steps": steps(loaded, choice) if choice.verdicts else [],
            "samples": list(samples(loaded, choice, pictures)),
            "histograms": list(histograms(loaded, choice, pictures)),
            "command": command(loaded, choice),
        }
    return pages.get_template("report.html").render(
        about=loaded.about,
        videos=videos(loaded.about["overview"]),
        cards=list(cards(loaded.about["overview"])),
        version=version("winnow"),
        policy=Markup(POLICY),  # ours, as the style is
        style=Markup(style),
        width=WIDTH,
        height=HEIGHT,
        **shown,
    )


class Pictures:
    """Middle stills, small, as base64; "" for a clip without one."""

    def __init__(self, loaded: Loaded) -> None:
        self.media = loaded.media
        self.known: dict[int, str] = {}

    def __call__(self, place: int) -> str:
        if place not in self.known:
            data = self.media.still(place, "middle")
            self.known[place] = thumbnail(data) if data else ""
        return self.known[place]


def head(loaded: Loaded, choice: Choice) -> dict[str, str]:
    hours = loaded.about["hours"]
    return {
        "hours": footage(hours),
        "clips": f"{loaded.about['clips']:,}",
        "kept_hours": footage(choice.hours),
        "kept": f"{choice.clips:,}",
        "share": f"{choice.hours / hours if hours else 0.0:.0%}",
    }


def steps(loaded: Loaded, choice: Choice) -> list[dict[str, str]]:
    """The funnel of the recorded selection."""
    total = before = loaded.about["clips"]
    rows = [step("all clips", "", total, total, total, loaded.about["hours"])]
    for verdict, (left, hours) in zip(choice.verdicts, choice.remaining, strict=True):
        notes = verdict.error or counts(verdict.failing, verdict.nulls)
        rows.append(step(condition(verdict), notes, before, left, total, hours))
        before = left
    return rows


def made(account: dict[str, Any] | None) -> list[dict[str, str]]:
    """The funnel that a curated dataset was selected by."""
    if not account:
        return []
    total = before = account["clips"]
    rows = [step("all clips", "", total, total, total, account["hours"])]
    for row in account["funnel"]:
        alone, left = row["alone"], row["in_order"]
        notes = counts(alone["failing"], alone["null"])
        rows.append(step(row["filter"], notes, before, left["remaining"], total, left["hours"]))
        before = left["remaining"]
    return rows


def step(what: str, notes: str, before: int, left: int, total: int, hours: float) -> dict[str, str]:
    total = total or 1
    return {
        "what": what,
        "notes": notes,
        "before": f"{100 * before / total:.2f}",
        "left": f"{100 * left / total:.2f}",
        "clips": f"{left:,}",
        "hours": footage(hours),
    }


def counts(failing: int, nulls: int) -> str:
    return f"{failing:,} fail" + (f", {nulls:,} null" if nulls else "")


def samples(loaded: Loaded, choice: Choice, pictures: Pictures) -> Iterable[dict[str, Any]]:
    """Stills of kept clips, and of those that each filter is the first to drop: a fair sample, the same each time."""
    count = loaded.columns.count
    wanted = [("kept", "kept", choice.kept, KEPT_STILLS, None)]
    left = Mask.full(count)
    for verdict in choice.verdicts:
        if verdict.passed is not None:
            title, dropped = f"dropped by {condition(verdict)}", left & ~verdict.passed
            wanted.append(("dropped", title, dropped, DROPPED_STILLS, verdict.column))
            left = left & verdict.passed
    for kind, title, mask, most, column in wanted:
        tiles = []
        total = mask.total()
        sample = (places[mask.take(places)] for places in shuffled(count, SEED))
        for place in sliced(sample, 0, min(most, total)):
            value = float(loaded.columns.values[column][place]) if column else None
            text = "" if value is None else "null" if np.isnan(value) else short(value)
            tiles.append({"picture": pictures(int(place)), "value": text})
        if tiles:
            yield {"kind": kind, "title": title, "count": f"{total:,}", "tiles": tiles}


def histograms(loaded: Loaded, choice: Choice, pictures: Pictures) -> Iterable[dict[str, Any]]:
    """Every score that has a spread, those that are filtered by first."""
    asked = [verdict.column for verdict in choice.verdicts]
    for score in sorted(loaded.about["scores"], key=lambda score: score["name"] not in asked):
        name, low, high, nulls = score["name"], score["low"], score["high"], score["nulls"]
        most = max(score["counts"]) ** 0.5
        at = [v.threshold for v in choice.verdicts if v.column == name and v.threshold is not None]
        along = strip(loaded.columns, loaded.chooser, name, SLOTS)
        yield {
            "name": name,
            "notes": " · ".join(part for part in (score["unit"], f"{nulls:,} null" if nulls else "") if part),
            "formula": score["formula"],
            "dropped": outline(score["counts"], most),
            "kept": outline(loaded.chooser.histogram(name, choice), most),
            "lines": [f"{WIDTH * min(1.0, max(0.0, (value - low) / (high - low))):.1f}" for value in at],
            "low": short(max(low, score["min"])),
            "high": short(min(high, score["max"])),
            "strip": [pictures(loaded.columns.place(clip)) if clip else "" for clip in along],
        }


def videos(found: dict[str, Any]) -> str:
    """What became of the videos, in a line; "" where it is not known."""
    line = ", ".join(f"{count:,} {status}" for status, count in found["videos"].items())
    return f"{line} · {footage(found['footage'])} usable" if line and found["footage"] is not None else line


def cards(found: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Bars: failures, time, footage by kind."""
    rows = [(f"{row['where']}: {row['reason']}", f"{row['count']:,}", row["count"]) for row in found["failures"]]
    yield {"title": "Failures by reason", "rows": bars(rows), "none": "none"}
    if found["seconds"]:
        rows = [(name, f"{clock(seconds)} · {share:.0%}", seconds) for name, seconds, share in found["seconds"]]
        yield {"title": "Time by stage", "rows": bars(rows)}
    for kind in found["kinds"]:
        rows = [(row["kind"], f"{footage(row['hours'])} · {row['count']:,}", row["hours"]) for row in kind["rows"]]
        yield {"title": f"Footage by {kind['title']}", "rows": bars(rows)}


def bars(rows: Sequence[tuple[str, str, float]]) -> list[dict[str, str]]:
    most = max((size for *_, size in rows), default=0) or 1
    return [{"name": name, "value": value, "width": f"{100 * size / most:.1f}"} for name, value, size in rows]


def command(loaded: Loaded, choice: Choice) -> str:
    sound = [verdict for verdict in choice.verdicts if verdict.error is None]
    filters = taking.asked_of(loaded.inspected, [v.filter for v in sound], [v.threshold for v in sound])
    return taking.command(loaded.inspected.annotated, "selected", filters)


def footage(hours: float) -> str:
    if hours >= 100:
        return f"{hours:,.0f} h"
    return f"{hours:.1f} h" if hours >= 1 else clock(hours * 3600)


def condition(verdict: Verdict) -> str:
    """A filter as a person reads it."""
    chosen = verdict.filter
    if chosen.kind == "where":
        return " ".join(chosen.sql.split())
    at = verdict.threshold if verdict.threshold is not None else chosen.amount
    part = f" ({chosen.kind.replace('drop_', '')} {chosen.amount:g}% dropped)" if chosen.percentile else ""
    return f"{chosen.column} {'≥' if verdict.keeps_high else '≤'} {short(at)}{part}"


def outline(counts: Sequence[int], most: float) -> str:
    """The path of a histogram's bars, by the square root of their counts."""
    width, path = WIDTH / len(counts), f"M0 {HEIGHT}"
    for i, count in enumerate(counts):
        path += f"V{HEIGHT * (1 - 0.97 * count**0.5 / most):.1f}H{(i + 1) * width:.1f}"
    return f"{path}V{HEIGHT}Z"


def thumbnail(data: bytes, size: int = 200) -> str:
    """A JPEG, decoded and encoded again, as base64; "" for what is no picture."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.thumbnail((size, size))
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=72)
    return base64.b64encode(buffer.getvalue()).decode()
