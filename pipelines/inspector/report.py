"""`winnow report`: the inspector's overview as one HTML file that needs nothing else, no script and no network.

Everything from the dataset is escaped text or a JPEG that was decoded and encoded again here.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from html import escape
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curate.base.files import whole
from pipelines.dataset.statistics import clock, short
from pipelines.inspector import taking
from pipelines.inspector.choice import Choice
from pipelines.inspector.media import Media
from pipelines.inspector.session import SLOTS, Session, strip

WIDTH, HEIGHT = 480, 84
KEPT_STILLS, DROPPED_STILLS, SEED = 18, 6, 1
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class ReportError(Exception):
    """A report that cannot be made. One line."""


def write_report(dataset: str | Path, out: str | Path) -> Path:
    """Write the report of an annotated or a curated dataset to the file `out`. Raises ReportError."""
    out = Path(out)
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(Path(dataset).resolve(), Path(scratch))
        session.load()
        session.close()
        if session.loaded is None:
            raise ReportError(session.wrong)
        text = _Report(session).html()
    with whole(out) as stream:
        stream.write(text.encode())
    return out


class _Report:
    def __init__(self, session: Session) -> None:
        self.loaded = session.loaded
        self.about, self.source, self.columns = self.loaded.about, self.loaded.source, self.loaded.columns
        self.media: Media | None = self.loaded.media
        self.choice: Choice | None = self.loaded.chooser.choose(self.source.filters) if self.loaded.chooser else None
        self._pictures: dict[int, str] = {}

    def html(self) -> str:
        name = self.about["name"]
        style = resources.files("pipelines.inspector").joinpath("page", "report.css").read_text(encoding="utf-8")
        parts = [self._head(), self._funnel(), self._samples(), self._histograms(), self._facts(), self._take()]
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(name)} · Winnow</title><style>{style}</style></head><body><main>"
            f"{''.join(parts)}<footer>Winnow {escape(version('winnow'))} · {escape(self.about['path'])}</footer>"
            "</main></body></html>\n"
        )

    def _head(self) -> str:
        about, choice = self.about, self.choice
        line = f"<h1>{escape(about['name'])}</h1>"
        if choice is None:
            return line + f'<p class="wrong">{escape(about.get("empty", "There are no clips."))}</p>'
        share = choice.hours / about["hours"] if about["hours"] else 0.0
        return (
            f'{line}<div class="figures"><p><b>{footage(about["hours"])}</b> in · {about["clips"]:,} clips</p>'
            f'<p class="kept"><b>{footage(choice.hours)}</b> kept · {choice.clips:,} clips</p><p>{share:.0%} of the footage</p></div>'
        )

    def _funnel(self) -> str:
        if self.choice is None or not self.choice.verdicts:
            made = self.about["overview"]["made"]
            return _made(made) if made else ""
        before, total, rows = self.about["clips"], self.about["clips"], []
        rows.append(_step("all clips", "", total, total, total, self.about["hours"]))
        for verdict, (left, hours) in zip(self.choice.verdicts, self.choice.remaining, strict=True):
            notes = f"{verdict.failing:,} fail" + (f", {verdict.nulls:,} null" if verdict.nulls else "")
            rows.append(_step(condition(verdict), verdict.error or notes, before, left, total, hours))
            before = left
        return f"<section><h2>Funnel</h2><ol>{''.join(rows)}</ol></section>"

    def _samples(self) -> str:
        """Stills of kept clips, and of those that each filter is the first to drop: a fair sample, the same each time."""
        if self.choice is None:
            return ""
        order = np.random.default_rng(SEED).permutation(self.columns.count)
        parts = [self._row("kept", self.choice.kept, order, KEPT_STILLS, "")]
        left = np.ones(self.columns.count, bool)
        for verdict in self.choice.verdicts:
            if verdict.passed is not None:
                parts.append(
                    self._row(
                        f"dropped by {condition(verdict)}",
                        left & ~verdict.passed,
                        order,
                        DROPPED_STILLS,
                        verdict.column,
                    )
                )
                left &= verdict.passed
        return f"<section><h2>What was kept, and what was dropped</h2>{''.join(parts)}</section>"

    def _row(self, title: str, mask: np.ndarray, order: np.ndarray, most: int, column: str | None) -> str:
        count = int(np.count_nonzero(mask))
        if not count:
            return ""
        tiles = []
        for place in order[mask[order]][:most]:
            value = self.columns.values[column][place] if column else None
            said = "" if value is None else "null" if np.isnan(value) else short(float(value))
            tiles.append(f"<figure>{self._picture(int(place))}<figcaption>{said}</figcaption></figure>")
        kind = "kept" if title == "kept" else "dropped"
        return f'<h3 class="{kind}">{escape(title)} <i>{count:,}</i></h3><div class="tiles">{"".join(tiles)}</div>'

    def _histograms(self) -> str:
        if self.choice is None:
            return ""
        asked = [verdict.column for verdict in self.choice.verdicts]
        scores = sorted(self.about["scores"], key=lambda score: score["name"] not in asked)
        made = "".join(self._histogram(score) for score in scores)
        nothing = "".join(
            f"<li><b>{escape(row['name'])}</b> {escape(row['why'])}</li>" for row in self.about["nothing"]
        )
        return (
            '<section><h2>Scores <i><span class="swatch kept"></span>kept <span class="swatch dropped"></span>dropped, '
            f'bars by the square root of their count</i></h2><div class="histograms">{made}</div><ul>{nothing}</ul></section>'
        )

    def _histogram(self, score: dict[str, Any]) -> str:
        name, low, high = score["name"], score["low"], score["high"]
        kept = self.loaded.chooser.histogram(name, self.choice)
        most = max(score["counts"]) ** 0.5
        lines = []
        for verdict in self.choice.verdicts:
            if verdict.column == name and verdict.threshold is not None:
                x = WIDTH * min(1.0, max(0.0, (verdict.threshold - low) / (high - low)))
                lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>')
        stills = "".join(
            self._picture(self.columns.place(clip)) if clip else "<span></span>"
            for clip in strip(self.columns, self.loaded.chooser, name, SLOTS)
        )
        notes = " · ".join(
            part for part in (score["unit"], f"{score['nulls']:,} null" if score["nulls"] else "") if part
        )
        return (
            f"<article><h3>{escape(name)} <i>{escape(notes)}</i></h3>"
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="histogram of {escape(name, quote=True)}">'
            f'<path class="dropped" d="{outline(score["counts"], most)}"/><path class="kept" d="{outline(kept, most)}"/>{"".join(lines)}</svg>'
            f'<p class="axis"><span>{short(max(low, score["min"]))}</span><span>{short(min(high, score["max"]))}</span></p><div class="strip">{stills}</div>'
            f'<p class="formula">{escape(score["formula"])}</p></article>'
        )

    def _facts(self) -> str:
        found, cards = self.about["overview"], []
        if found["videos"]:
            line = ", ".join(f"{count:,} {status}" for status, count in found["videos"].items())
            line += f" · {footage(found['footage'])} usable" if found["footage"] is not None else ""
            cards.append(_card("Videos", f"<p>{escape(line)}</p>"))
        rows = [(f"{row['where']}: {row['reason']}", f"{row['count']:,}", row["count"]) for row in found["failures"]]
        cards.append(_card("Failures by reason", _bars(rows) if rows else "<p>none</p>"))
        if found["seconds"]:
            cards.append(
                _card(
                    "Time by stage",
                    _bars([(name, f"{clock(s)} · {share:.0%}", s) for name, s, share in found["seconds"]]),
                )
            )
        for kind in found["kinds"]:
            rows = [(row["kind"], f"{footage(row['hours'])} · {row['count']:,}", row["hours"]) for row in kind["rows"]]
            cards.append(_card(f"Footage by {kind['title']}", _bars(rows)))
        return f'<section><h2>What the job did</h2><div class="cards">{"".join(cards)}</div></section>'

    def _take(self) -> str:
        if self.choice is None:
            return ""
        verdicts = [verdict for verdict in self.choice.verdicts if verdict.error is None]
        filters = taking.asked_of(self.source, [v.filter for v in verdicts], [v.threshold for v in verdicts])
        command = taking.command(self.source.dataset, "selected", filters)
        return f"<section><h2>This selection as a command</h2><pre>{escape(command)}</pre></section>"

    def _picture(self, place: int) -> str:
        """An <img> of the middle still, small."""
        if place not in self._pictures:
            data = self.media.still(place, "middle")
            self._pictures[place] = (
                f'<img alt="" src="data:image/jpeg;base64,{thumbnail(data)}">' if data else "<span></span>"
            )
        return self._pictures[place]


def footage(hours: float) -> str:
    if hours >= 100:
        return f"{hours:,.0f} h"
    return f"{hours:.1f} h" if hours >= 1 else clock(hours * 3600)


def condition(verdict: Any) -> str:
    """A filter as a person reads it."""
    chosen = verdict.filter
    if chosen.kind == "where":
        return " ".join(chosen.sql.split())
    at = verdict.threshold if verdict.threshold is not None else chosen.amount
    part = f" ({chosen.kind.replace('drop_', '')} {chosen.amount:g}% dropped)" if chosen.percentile else ""
    return f"{chosen.column} {'≥' if verdict.keeps_high else '≤'} {short(at)}{part}"


def outline(counts: Sequence[int], most: float) -> str:
    step, path = WIDTH / len(counts), f"M0 {HEIGHT}"
    for i, count in enumerate(counts):
        path += f"V{HEIGHT * (1 - 0.97 * count**0.5 / most):.1f}H{(i + 1) * step:.1f}"
    return f"{path}V{HEIGHT}Z"


def thumbnail(data: bytes, size: int = 200) -> str:
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.thumbnail((size, size))
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=72)
    return base64.b64encode(buffer.getvalue()).decode()


def _step(what: str, notes: str, before: int, left: int, total: int, hours: float) -> str:
    whole = total or 1
    return (
        f'<li><span class="lost" style="width:{100 * before / whole:.2f}%"></span><span class="left" style="width:{100 * left / whole:.2f}%"></span>'
        f"<b>{escape(what)} <i>{escape(notes)}</i></b><em>{left:,} <i>{footage(hours)}</i></em></li>"
    )


def _made(made: dict[str, Any]) -> str:
    rows, before = [_step("all clips", "", made["clips"], made["clips"], made["clips"], made["hours"])], made["clips"]
    for row in made["funnel"]:
        alone, left = row["alone"], row["in_order"]
        notes = f"{alone['failing']:,} fail" + (f", {alone['null']:,} null" if alone["null"] else "")
        rows.append(_step(row["filter"], notes, before, left["remaining"], made["clips"], left["hours"]))
        before = left["remaining"]
    return f"<section><h2>How it was selected</h2><ol>{''.join(rows)}</ol></section>"


def _card(title: str, body: str) -> str:
    return f"<div><h3>{escape(title)}</h3>{body}</div>"


def _bars(rows: Sequence[tuple[str, str, float]]) -> str:
    most = max((size for *_, size in rows), default=0) or 1
    return "<ul>" + "".join(
        f'<li><span class="left" style="width:{100 * size / most:.1f}%"></span><b>{escape(name)}</b><em>{escape(value)}</em></li>'
        for name, value, size in rows
    ) + "</ul>"  # fmt: skip
