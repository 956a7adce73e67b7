"""`winnow inspect` and `winnow report`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.errors import errors


def register(app: typer.Typer) -> None:
    """Add both commands."""

    @app.command()
    def inspect(
        dataset: Annotated[
            str,
            typer.Argument(
                metavar="DATASET|CURATED|RUN", help="a folder or URL that annotate, select, run or train made"
            ),
        ],
        port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8501,
        host: Annotated[
            str, typer.Option(help="address to listen on; beyond this machine a token is needed")
        ] = "127.0.0.1",
        open_: Annotated[bool, typer.Option("--open/--no-open", help="open the page in the browser")] = True,
        token: Annotated[
            bool, typer.Option("--token", help="require a token on this machine too, if others use it")
        ] = False,
        plugin: Annotated[
            list[str],
            typer.Option("--plugin", metavar="FILE.py", help="a Python file with panels of your own; it is run"),
        ] = [],  # noqa: B006
        cache: Annotated[
            str | None,
            typer.Option(help="folder for tables of scores, and clips that were played; default: the user's cache"),
        ] = None,
    ) -> None:
        """Look at what was kept and why, in the browser; move thresholds by eye and leave with a command.

        Of a training run: curves, held-out loss by noise level, samples by step.

        winnow inspect out/annotated
        winnow inspect s3://bucket/annotated
        """
        with errors():
            from curate.parts import Parts
            from pipelines.inspector.panel import Panel
            from pipelines.inspector.server.serving import serve

            panels = Parts.load(plugin).of(Panel)
            serve(dataset, host=host, port=port, browser=open_, ask_token=token, cache=cache, panels=panels)

    @app.command()
    def report(
        dataset: Annotated[
            str, typer.Argument(metavar="DATASET|CURATED", help="a folder or URL that annotate, select or run made")
        ],
        out: Annotated[str, typer.Option("--out", "-o", help="the file to write")] = "report.html",
    ) -> None:
        """Write the overview as one HTML file that needs nothing else: funnel, histograms, stills, failures, time.

        winnow report out/annotated --out report.html
        """
        with errors():
            from pipelines.inspector.report.report import write_report

            typer.echo(f"written: {write_report(dataset, out)}")
