"""`winnow plan`: what machines would make of a config."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.cli.errors import DONE, CommandError, errors, out_console
from pipelines.cli.options import config_of


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)


def plan(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="a YAML file, or a shipped config")] = "quickstart",
    nodes: Annotated[
        str,
        typer.Option(help="machines, e.g. '4x(16 CPU, 8 GPU, 256 GB)', several kinds joined by +; default: this one"),
    ] = "",
    hours: Annotated[float | None, typer.Option(min=0, help="of footage: how long they take")] = None,
    rates: Annotated[
        str | None, typer.Option(metavar="DATASET", help="go by the times that making this dataset took")
    ] = None,
    footage: Annotated[str, typer.Option(help="height of the pictures, e.g. 360p")] = "1080p",
    clips: Annotated[float, typer.Option(min=1, help="in an hour of footage")] = 440.0,
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a key of the config")] = [],  # noqa: B006
    plugin: Annotated[
        list[str], typer.Option("--plugin", metavar="FILE.py", help="a Python file with parts of your own")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Say which workers a config makes on machines, how much footage they take in an hour, and what bounds that.

    Nothing is started, no weights are needed.

      winnow plan cluster-gpu --nodes '4x(16 CPU, 8 GPU)' --hours 10000
      winnow plan quickstart --rates dataset --nodes '10x(64 CPU, 256 GB)'
    """
    with errors():
        from pipelines.capacity.nodes import parse_nodes
        from pipelines.capacity.plan import plan as make
        from pipelines.capacity.rates import Footage

        resolved = config_of(config, set_, plugin)
        size = Footage(_height(footage), clips)
        try:
            made = make(resolved, parse_nodes(nodes) if nodes else [_this_machine()], size, rates)
        except ValueError as error:
            raise CommandError(str(error)) from None
        if as_json:
            out_console.print_json(json.dumps(made.to_dict() | {"hours": hours}))
        else:
            out_console.print(page(made, config, hours))
    raise typer.Exit(DONE)


def _height(text: str) -> int:
    number = text.lower().removesuffix("p")
    if not number.isdigit() or not 16 <= int(number) <= 8640:
        raise CommandError(f"--footage {text}: give the height of the pictures, such as 360p, 1080p or 2160p")
    return int(number)


def _this_machine() -> Any:
    import os

    import psutil

    from pipelines.annotation.pools import Node

    return Node(float(os.cpu_count() or 1), 0.0, float(psutil.virtual_memory().available))


def page(made: Any, config: str, hours: float | None) -> RenderableType:
    """The plan as a page of the terminal."""
    from pipelines.capacity.nodes import text_of

    table = Table(title="Pools", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    heads = (
        "pool",
        "workers",
        "CPUs",
        "GPUs",
        "GB",
        "GB of a GPU",
        "s of a worker\nfor 1 s of footage",
        "hours an hour",
    )
    for head in heads:
        table.add_column(head, justify="left" if head == "pool" else "right", header_style="dim")
    seconds = made.rates.seconds()
    for pool, share, each in zip(made.pools, made.shares, seconds, strict=True):
        table.add_row(
            pool.name, f"{share.workers_max:,}", f"{share.cpus:.2g}", f"{share.gpus:g}" if pool.gpu else "",
            f"{pool.memory / 1e9:.1f}", f"{pool.gpu_memory / 1e9:.1f}" if pool.gpu else "", f"{each:.3f}",
            f"{share.workers_max / each:,.0f}" if each else "",
        )  # fmt: skip
    footage = made.footage
    lines: list[RenderableType] = [
        Text.assemble((config, "bold"), " on ", (" + ".join(text_of(node) for node in made.nodes), "bold"),
                      f": footage of {footage.height}p, {footage.clips:,.0f} clips in an hour of it"),
        "", table, "", _rates(made), "", _result(made, hours),
    ]  # fmt: skip
    lines += [Text(f"  next: {what}: {limit:,.0f}", style="dim") for what, limit in made.bounds[1:3]]
    lines += [Text(f"  {factor:.2g} times as fast: {text}", style="green") for text, factor in made.helps]
    lines += [Text(f"note: {note}", style="yellow") for note in made.notes]
    lines += [Text(f"assumed: {text}", style="yellow") for text in made.rates.assumed]
    return Group(*lines)


def _rates(made: Any) -> Table:
    table = Table(title="Times", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for head in ("pool", "what", "CPU", "GPU", "from"):
        table.add_column(head, justify="right" if head in ("CPU", "GPU") else "left", header_style="dim")
    for pool, costs in zip(made.pools, made.rates.pools, strict=True):
        for at, cost in enumerate(costs):
            figures = (f"{value:.4f}" if value else "" for value in (cost.cpu, cost.gpu))
            table.add_row("" if at else pool.name, cost.name, *figures, cost.source)
    table.caption = "seconds for a second of footage"
    table.caption_justify = "left"
    return table


def _result(made: Any, hours: float | None) -> Text:
    text = Text.assemble((f"{made.rate:,.0f} hours of footage an hour", "bold"))
    if math.isfinite(made.rate) and hours is not None:
        took = hours / made.rate
        text.append(
            f"; {hours:,.0f} hours take {took / 24:,.1f} days"
            if took > 48
            else f"; {hours:,.0f} hours take {took:,.1f} h"
        )
    if made.bounds:
        text.append(f"\n  bounded by {made.bounds[0][0]}")
    return text
