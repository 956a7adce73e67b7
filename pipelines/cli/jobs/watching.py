"""`winnow status`: how a dataset's run is doing, from any machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.cli.errors import DONE, WITH_FAILURES, errors, out_console

ROWS = 5  # of each table
COLOURS = {"running": "green", "silent": "red", "ended": "blue", "recorded": "blue"}
EVERY = 2.0  # s between looks of --watch


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="a dataset that `winnow annotate` makes or made")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="again every two seconds, until the run ends")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON; with --watch a line each time")] = False,
) -> None:
    """Say how the run that makes a dataset is doing: done, failed, rate, slowest units, time left, what it waits for.

    It only reads, and works from any machine that reaches the dataset. Exit code 1: the run stopped before it was done, or
    shows no sign of life.

      winnow status dataset --watch
      winnow status s3://bucket/dataset --json
    """
    with errors():
        from pipelines.status.reading import report

        found = report(dataset)
        if as_json:
            out_console.file.write(json.dumps(found.to_dict(), indent=None if watch else 1) + "\n")
        elif not watch:
            out_console.print(page(found))
        if watch:
            found = _watch(dataset, found, as_json)
        unfinished = found.life == "silent" or (found.life == "ended" and found.state["state"] != "finished")
    raise typer.Exit(WITH_FAILURES if unfinished else DONE)


def _watch(dataset: str, found: Any, as_json: bool) -> Any:
    from pipelines.status.reading import report

    if as_json:
        while found.life == "running":
            time.sleep(EVERY)
            found = report(dataset)
            out_console.file.write(json.dumps(found.to_dict()) + "\n")
            out_console.file.flush()
        return found
    with Live(page(found), console=out_console, auto_refresh=False) as live:
        while found.life == "running":
            time.sleep(EVERY)
            found = report(dataset)
            live.update(page(found), refresh=True)
    return found


def page(found: Any) -> RenderableType:
    """The report as a page of the terminal."""
    state = found.state
    lines: list[RenderableType] = [_head(found)]
    if found.life != "recorded":
        lines += _progress(found)
    lines.append(_counts(state))
    for reason in found.waits_for:
        lines.append(Text(f"  waits for {reason}", style="yellow"))
    tables = [
        _table("Slowest", ("file", "footage", "time"), _slowest(state), left=(0,)),
        _table("Time", ("stage", "worker time", "share"), _stages(state), left=(0,)),
        _table("Failures", ("reason", "count"), _reasons(state), left=(0,)),
    ]
    if found.life in ("running", "silent"):
        heads = ("file", "pool", "worker", "footage", "for", "at most")
        tables = [
            _table("Workers", ("pool", "there", "wanted", "waits for"), _workers(state), left=(0, 3)),
            _table("Running", heads, _running(state), left=(0, 1, 2)),
            *tables,
        ]
    return Group(*lines, *(part for table in tables if table for part in ("", table)))


def _head(found: Any) -> Text:
    state = found.state
    line = Text.assemble((found.place, "bold"), "  ")
    if found.life == "recorded":
        return line.append("no run is known: what follows is of its tables", COLOURS["recorded"])
    who = state["holder"]
    word = {"silent": "no sign of life", "ended": state["state"]}.get(found.life, found.life)
    line.append(word, COLOURS[found.life] if state["state"] not in ("stopped", "interrupted") else "red")
    if found.life == "silent":
        line.append(f" for {_time(found.silence)}")
        line.append(": its process is gone" if found.gone else " (by the clocks of the store and of this machine)")
    ran = state["time"] - state["began"]
    line.append(
        f" · {'ran' if found.life != 'running' else 'since'} {_time(ran)} · {who['host']}, process {who['pid']}"
    )
    if state["reason"]:
        line.append(f"\n  {state['reason']}", "yellow")
    if found.life == "silent":
        line.append("\n  the same command of `winnow annotate` goes on where it was", "yellow")
    return line


def _progress(found: Any) -> list[RenderableType]:
    state = found.state
    planned, done = state["planned"], sum(state["done"].values())
    whole, part = (planned["footage"], state["handled"]) if planned["footage"] else (planned["units"], done)
    share = min(1.0, part / whole) if whole else (1.0 if planned["final"] else 0.0)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        " ",
        ProgressBar(1.0, share, width=30),
        f"{share:.0%}" if planned["final"] else f"{share:.0%} of what is planned so far",
        f"{done:,} of {planned['units']:,} units · {_hours(state['footage'])} of {_hours(planned['footage'])} of footage",
    )
    if found.life != "running":
        return [grid]
    rate, left = state["rate"], state["left"]
    line = f"  {_short(rate['footage'])} hours of footage an hour, {_short(60 * rate['units'])} units a minute, lately"
    if left is None:
        line += " · no end to be told yet"
    elif left > 0:
        at_least = "" if planned["final"] else "at least "
        end = datetime.now() + timedelta(seconds=left)
        line += f" · {at_least}{_time(left)} left, until {end:%H:%M}{_days(end)}"
    return [grid, Text(line)]


def _counts(state: Mapping[str, Any]) -> Text:
    done = sorted(state["done"].items(), key=lambda item: (item[0] != "ok", item[0]))
    line = Text("  " + (", ".join(f"{count:,} {name}" for name, count in done) or "nothing done yet"))
    line.append(f" · {state['clips']:,} clips")
    if state["state"] == "recorded":
        return line.append(f" · {_hours(state['footage'])} of footage")
    line.append(f" · {state['committed']:,} committed in {state['shards']:,} shards")
    if state["lost"]:
        line.append(f" · {state['lost']:,} lost and tried again", "yellow")
    if state["planned"]["already"]:
        line.append(f" · {state['planned']['already']:,} from earlier runs")
    if state["events"] and state["events"]["dropped"]:
        line.append(f" · {state['events']['dropped']:,} events dropped", "yellow")
    return line


def _workers(state: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, pool in state["pools"].items():
        waits = pool["waits_for"] if pool["there"] < pool["wanted"] else ""
        yield name, f"{pool['there']:,}", f"{pool['wanted']:,}", waits


def _running(state: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for unit in state["running"]["longest"][:ROWS]:
        limit = _time(unit["limit"]) if unit["limit"] else ""
        yield _name(unit["path"]), unit["pool"], unit["worker"], _time(unit["footage"]), _time(unit["seconds"]), limit


def _slowest(state: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for unit in state["slowest"][:ROWS]:
        yield _name(unit["path"]), _time(unit["footage"]) if "footage" in unit else "", _time(unit["wall"])


def _stages(state: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    total = sum(state["stages"].values()) or 1.0
    for name, seconds in state["stages"].items():
        yield name, _time(seconds), f"{seconds / total:.0%}"


def _reasons(state: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    reasons = list(state["reasons"].items())
    for reason, count in reasons[:ROWS]:
        yield reason, f"{count:,}"
    if len(reasons) > ROWS:
        yield f"{len(reasons) - ROWS} other reasons: `winnow stats`", f"{sum(n for _, n in reasons[ROWS:]):,}"


def _table(title: str, heads: tuple[str, ...], rows: Iterator[tuple[str, ...]], left: tuple[int, ...]) -> Table | None:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at in left else "right", header_style="dim", no_wrap=at not in left)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table if table.row_count else None


def _name(path: str) -> str:
    return os.path.basename(path) or path


def _time(seconds: float) -> str:
    if seconds >= 172800:
        return f"{seconds / 86400:.1f} days"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else _time(seconds)


def _days(end: datetime) -> str:
    days = (end.date() - datetime.now().date()).days
    return "" if not days else f" in {days} day{'s' if days > 1 else ''}"


__all__ = ["page", "register"]
