"""The progress line of a job, and the summary at its end."""

from __future__ import annotations

import os
import time
from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.progress import Task
from rich.table import Table
from rich.text import Text

from curate.base.store import shown
from pipelines.annotation.summary import Summary
from pipelines.annotation.tasks import Report
from pipelines.cli.errors import progress_bar
from pipelines.curated.curated import Curated
from pipelines.dataset.statistics import clock, funnel_table
from pipelines.sources.sources import skipped_text


class LiveProgress:
    """A progress line: units, videos, clips, footage, rate, time left, failed units. Without a terminal, a line every 15 s.

    A unit is a stretch of a video; a short video is one unit.
    """

    PLAIN_SECONDS = 15.0
    MOST_TOLD = 1000  # failures that are printed; `videos/` has all

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = progress_bar(console)
        self.task: Task | None = None
        self.units = self.done = self.videos = self.clips = self.failed = self.told = 0
        self.total = self.footage = 0.0
        self.began = self.printed = time.monotonic()

    def __enter__(self) -> LiveProgress:
        self.progress.start()
        self.id = self.progress.add_task("looking for videos", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def planning(self, looked: int) -> None:
        if not self.units:
            self.progress.update(self.id, description=f"opening files: {looked}")

    def planned(self, units: int, seconds: float, already: int) -> None:
        if not self.units:
            self.began = time.monotonic()
            if already:
                self.console.print(f"{counted(already, 'input')} in the dataset already: resuming")
            self.progress.update(self.id, description="starting workers", completed=0, total=max(seconds, 1e-9))
        self.units, self.total = units, seconds

    def committed(self, units: list[str]) -> None: ...

    def unit(self, unit: Report) -> None:
        self.done += 1
        self.videos += unit.index == 0
        self.clips += unit.clips
        self.failed += unit.status == "failed"
        self.footage += unit.footage
        if unit.status in ("failed", "lost"):
            self.told += 1
            if self.told <= self.MOST_TOLD:
                self.console.print(
                    Text(f"{unit.status}: {os.path.basename(shown(unit.path))!r}: {unit.error}", style="yellow")
                )
        spent = time.monotonic() - self.began
        rate = self.footage / max(spent, 1e-9)
        left = clock((self.total - self.footage) / rate) if rate > 0 and self.footage < self.total else "0 s"
        line = (
            f"{self.done} of {self.units} units · {counted(self.videos, 'video')} · {self.clips} clips · {self.footage / 3600:.3g} of {self.total / 3600:.3g} h"
            f" · {rate:.2g} h/h · {left} left · {counted(self.failed, 'unit')} failed"
        )
        self.progress.update(self.id, description=line, completed=self.footage, total=max(self.total, 1e-9))
        if not self.console.is_terminal and time.monotonic() - self.printed > self.PLAIN_SECONDS:
            self.printed = time.monotonic()
            self.console.print(line, highlight=False)


def print_summary(console: Console, summary: Summary, out: str) -> None:
    """Print the counts of a run, and every kind of failure with an example."""
    if summary.nothing_to_do:
        console.print(f"nothing to do: {counted(summary.already, 'input')} in the dataset already", highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = [
        ("videos", f"{summary.videos}" + (f" (+ {summary.already} from earlier runs)" if summary.already else "")),
        ("clips", f"{summary.clips}"),
        ("footage", clock(summary.footage)),
        ("time", f"{clock(summary.wall)} ({summary.footage / max(summary.wall, 1e-9):.1f} x real time)"),
    ]
    if summary.requests:
        rows.append(
            ("read from the store", f"{summary.bytes_read / 1e6:.1f} MB by {counted(summary.requests, 'request')}")
        )
    if summary.duplicates:
        rows.append(("duplicates", f"{summary.duplicates}"))
    if summary.warned:
        rows.append(("used in part", f"{summary.warned} (see `warnings` in videos/)"))
    if summary.skipped:
        rows.append(("skipped", skipped_text(summary.skipped)))
    if summary.clip_failures:
        rows.append(("clips with a failed stage", f"{summary.clip_failures} (see `errors` in clips/)"))
    if summary.changed:
        rows.append(("changed", f"{counted(summary.changed, 'video')} have other content than before: annotated again"))
    if summary.moved:
        rows.append(("moved", f"{counted(summary.moved, 'video')}: rows adopted, nothing computed again"))
    rows.append(("failed", _failed(summary)))
    if summary.lost:
        rows.append(("lost", f"{counted(summary.lost_videos, 'video')}, not their fault: run the same command again"))
    for name, value in rows:
        table.add_row(name, escape(value))
    console.print(table)
    unlucky = summary.failures + summary.lost + (summary.earlier if summary.nothing_to_do else [])
    reasons = summary.reasons or Counter(reason for _, reason in unlucky)
    for reason, count in reasons.most_common(12):
        example = next((f"  (e.g. {os.path.basename(shown(path))!r})" for path, why in unlucky if why == reason), "")
        console.print(Text(f"  {count} x {reason}{example}", style="yellow"))
    if len(reasons) > 12:
        console.print(f"  ... and {len(reasons) - 12} other reasons: `winnow stats {out}` lists them")


def _failed(summary: Summary) -> str:
    text = counted(summary.failed, "video")
    if summary.failed_before:
        text += f" (+ {summary.failed_before} in earlier runs: --retry-failed retries them)"
    return text


def counted(number: int, noun: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class CutLine:
    """Progress of `select`: clips cut so far."""

    def __init__(self, console: Console) -> None:
        self.progress = progress_bar(console)

    def __enter__(self) -> CutLine:
        self.progress.start()
        self.id = self.progress.add_task("selecting", total=None)
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        """Show what is waited for."""
        self.progress.update(self.id, description=text)

    def update(self, done: int, total: int, failed: int) -> None:
        rate = done / max(time.monotonic() - self.began, 1e-9)
        left = clock((total - done) / rate) if rate else "?"
        self.progress.update(
            self.id,
            description=f"cut {done} of {total} clips · {left} left · {failed} failed",
            completed=done,
            total=total,
        )


def print_curated(console: Console, made: Curated) -> None:
    """The funnel, and what became of the clips that passed it."""
    chosen = made.selection
    console.print(funnel_table(chosen.to_dict()["funnel"], (chosen.clips, chosen.hours)))
    verb = "was there already" if made.already else "written"
    how = f"{made.copied} copied without re-encoding, {made.transcoded} transcoded"
    console.print(
        f"{made.clips} clips, {clock(made.hours * 3600)} of footage, {made.bytes / 1e6:.1f} MB in {made.shards} shards "
        f"({how}), {verb}: {escape(str(made.out))}",
        highlight=False,
    )
    for reason, count in Counter(item["reason"] for item in made.failed).most_common(12):
        console.print(Text(f"  {count} x could not be cut: {reason}", style="yellow"))
