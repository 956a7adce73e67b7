"""`winnow ...`: the command line. Options become arguments of the functions beside it; nothing else happens here."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

app = typer.Typer(
    name="winnow",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Raw videos to captioned, scored, explainable clips in Parquet shards.\n\n"
    "First time?  winnow run FOLDER_OF_VIDEOS --out out/   makes out/annotated (every clip, every score) and out/curated "
    "(the shards that a selection kept).  Exit codes: 0 done, 1 done with failures recorded, 2 could not start.",
)
out_console = Console()
err_console = Console(stderr=True)

DONE, WITH_FAILURES, COULD_NOT_START, INTERRUPTED = 0, 1, 2, 130

Sources = Annotated[list[str], typer.Argument(metavar="SOURCE...", help="videos, folders (recursive), globs, or a list (.txt, .jsonl, .csv, .parquet) that may carry captions and other columns")]
ConfigName = Annotated[str, typer.Option("--config", "-c", help="a YAML file, or a shipped config: quickstart (offline), svd (the paper's models)")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a key of the config, e.g. --set shots.min_seconds=1.5")]
Executor = Annotated[str | None, typer.Option(help="ray (actor pools, the default) or inline (this one process)")]
Workers = Annotated[int | None, typer.Option(min=1, help="worker processes; default: one a core, as memory allows")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on, e.g. auto or ray://head:10001")]


@app.command()
def annotate(
    sources: Annotated[list[str] | None, typer.Argument(metavar="[SOURCE...]", help="videos, folders, globs or lists; none: the videos that the dataset already holds")] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="the dataset to make, or to go on with")] = "",
    config: ConfigName = "quickstart",
    set_: Overrides = [],  # noqa: B006
    stages: Annotated[str | None, typer.Option(help="only these, e.g. shots,motion,text; what they need comes with them. Run again with more to fill in the rest")] = None,
    executor: Executor = None,
    workers: Workers = None,
    address: Address = None,
    retry_failed: Annotated[bool, typer.Option(help="try videos again that are recorded as failed")] = False,
) -> None:
    """Find the clips of videos and score them: every clip is kept, with all its scores.

    Interrupt it at any time: the same command goes on where it stopped.

      winnow annotate videos/ --out dataset
      winnow annotate list.jsonl --out dataset --stages shots,motion,text
      winnow annotate --out dataset            (fills in the stages that are missing)
    """
    if not out:
        _stop("--out is missing: name the dataset folder to make, e.g. --out dataset")
    with _errors():
        failed = _annotate(sources or [], out, config, set_, stages, executor, workers, address, retry_failed)
    raise typer.Exit(WITH_FAILURES if failed else DONE)


def _annotate(sources, out, config, overrides, stages, executor, workers, address, retry_failed) -> bool:
    from pipelines.annotate import annotate as job
    from pipelines.progress import Live, print_summary

    resolved = _config(config, overrides)
    with Live(err_console) as live:
        summary = job(
            sources,
            out,
            resolved,
            place=_place(resolved, executor, workers, address),
            watcher=live,
            stages=[name.strip() for name in stages.split(",")] if stages else None,
            retry_failed=retry_failed,
        )
    print_summary(out_console, summary, out)
    return summary.failed + summary.failed_before > 0


def _config(name: str, overrides: list[str]):
    from pipelines.config import load

    return load(name, overrides)


def _place(config, executor: str | None, workers: int | None, address: str | None):
    from pipelines.config import ConfigError
    from pipelines.executor import Place

    run = config.execution
    chosen = executor or run.executor
    if chosen not in ("ray", "inline"):
        raise ConfigError(f"--executor {chosen}: choose ray or inline")
    return Place(chosen, workers or run.workers, address or run.address)


class _errors:
    """Every error that a person can mend becomes one line and exit code 2; an interruption says how to go on."""

    def __enter__(self) -> None:
        for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def __exit__(self, kind, error, _trace) -> None:
        if kind is None or issubclass(kind, (typer.Exit, SystemExit)):
            return
        if issubclass(kind, KeyboardInterrupt):
            err_console.print("interrupted: what was committed stays; the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None
        if kind.__module__.startswith(("pipelines.", "curate.")):
            _stop(str(error))


def _stop(message: str) -> None:
    err_console.print(Text("winnow: " + " ".join(message.split()), style="red"), soft_wrap=True)
    raise typer.Exit(COULD_NOT_START)


def _version(wanted: bool) -> None:
    if wanted:
        out_console.print(f"winnow {version('winnow')}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False) -> None:
    pass


def main() -> None:
    app()


if __name__ == "__main__":
    main()
