"""What a person sees while a model trains, and what is left on the screen when it has ended."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.cli.errors import progress_bar
from pipelines.dataset.statistics import clock


class Following:
    """A progress line of a training run: phase or stage, step, loss, time left. On a pipe, a plain line now and then."""

    PLAIN_SECONDS = 15.0

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = progress_bar(console)
        self.printed = time.monotonic()
        self.steps = 1
        self.pace: float | None = None  # seconds a step

    def __enter__(self) -> Following:
        self.progress.start()
        self.id = self.progress.add_task("reading the data", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def phase(self, what: str, done: int, total: int) -> None:
        self._show(f"{what}: {done} of {total}", done, total)

    def stage(self, name: str, first: int, steps: int, facts: dict[str, Any]) -> None:
        self.steps, self.pace = steps, None
        if facts:
            self.console.print(Text(f"stage {name}: {_data(facts)}"), soft_wrap=True)
        if first:
            self.console.print(f"stage {name}: resumed after step {first}")

    def step(self, name: str, step: int, numbers: dict[str, float]) -> None:
        # Of the steps themselves: from other workers, progress comes late and in bunches
        took = numbers["step_seconds"]
        self.pace = took if self.pace is None else 0.9 * self.pace + 0.1 * took
        left = clock(self.pace * (self.steps - step))
        self._show(
            f"stage {name}: step {step} of {self.steps} · loss {numbers['loss']:.4f} · {numbers['step_seconds']:.2g} s a step"
            f" · {left} left",
            step,
            self.steps,
        )

    def _show(self, line: str, done: int, total: int) -> None:
        self.progress.update(self.id, description=line, completed=done, total=max(total, 1))
        if not self.console.is_terminal and time.monotonic() - self.printed > self.PLAIN_SECONDS:
            self.printed = time.monotonic()
            self.console.print(Text(line), soft_wrap=True)


def print_run(console: Console, root: str, schema: Any) -> None:
    """A table of the stages: steps, losses, seconds; and where to look."""
    from video_model.training.journal import read_log
    from video_model.training.run import Run

    run = Run.open(root, schema)
    table = Table(
        "stage",
        "steps",
        "loss",
        "held-out loss",
        "s a step",
        "waiting for data",
        title="Training",
        title_justify="left",
    )
    for name in run.config.stages:
        lines = read_log(run.stage(name) / "log.jsonl")
        if not lines:
            continue
        steps = [line for line in lines if "loss" in line]
        losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
        table.add_row(
            name,
            str(lines[-1]["step"]),
            f"{_mean(steps, 'loss', 5):.4f}",
            f"{losses[0]:.4f} to {losses[-1]:.4f}" if losses else "none held out",
            f"{_mean(steps, 'step_seconds'):.3g}",
            f"{_mean(steps, 'waiting_share'):.1%}",
        )
    console.print(table)
    console.print(
        f"samples: {root}/stages/*/samples    curves: tensorboard --logdir {root}/tensorboard", soft_wrap=True
    )
    console.print(
        f'draw:    winnow sample {root} --prompt "..." (or --image first.png) --out video.mp4', soft_wrap=True
    )


def print_metrics(console: Console, found: dict[str, Any]) -> None:
    """Each figure of an evaluation, with its 95% interval, beside the one of real videos; why where there is none."""
    table = Table("metric", "drawn", "real", "clips", title=found["title"], title_justify="left")
    for name, row in found["metrics"].items():
        table.add_row(name, _figure(row), _figure(row["real"]), str(row["n"] or ""))
    console.print(table)
    for name, row in found["metrics"].items():
        if row.get("why"):
            console.print(f"{name}: not told: {row['why']}", soft_wrap=True)
    console.print(f"in brackets: 95% interval; {found['folder']}: metrics.json, contact.png", soft_wrap=True)


def _figure(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return ""
    return f"{row['value']:.4g}" + ("" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})")


def _mean(lines: list[dict[str, float]], key: str, last: int = 0) -> float:
    chosen = [line[key] for line in lines[-last:]]
    return sum(chosen) / max(len(chosen), 1)


def _data(facts: dict[str, Any]) -> str:
    buckets = {**facts["buckets"], **facts["image buckets"]}
    every = {**facts["left out of the sources"], **facts["skipped"]}
    skipped = "".join(f"; {count} left out: {why}" for why, count in every.items())
    silent = f"; {facts['without a caption']} without a caption" if facts["without a caption"] else ""
    return f"{facts['used']} of {facts['rows']} clips ({', '.join(f'{k}: {v}' for k, v in buckets.items())}){skipped}{silent}"
