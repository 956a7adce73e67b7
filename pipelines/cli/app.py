"""`winnow ...`: the command line. It only turns options into arguments of functions elsewhere."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer
from rich.text import Text

from curate.selection.presets import preset_help
from pipelines.cli import compacting
from pipelines.cli import inspecting as inspector
from pipelines.cli import training as training_cli
from pipelines.cli.errors import DONE, WITH_FAILURES, err_console, errors, out_console
from pipelines.cli.jobs import capacity as capacity_cli
from pipelines.cli.jobs import watching as watching_cli
from pipelines.cli.options import (
    cluster_of,
    config_of,
    place_of,
    recorded_config,
    source_roots_of,
    stages_of,
    with_export,
)

app = typer.Typer(
    name="winnow",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Raw videos to captioned, scored, explainable clips in Parquet shards.\n\n"
    "First time?  winnow run FOLDER_OF_VIDEOS --out out/   makes out/annotated (every clip, every score) and out/curated "
    "(the shards that a selection kept).  Exit codes: 0 done, 1 done with failures recorded, 2 could not start or continue, "
    "3 a defect of Winnow.",
)
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="videos, folders (recursive), globs, or a list (.txt, .jsonl, .csv, .parquet) that may carry captions and other columns",
    ),
]
ConfigName = Annotated[
    str,
    typer.Option(
        "--config", "-c", help="a YAML file, or a shipped config: quickstart (offline), svd (the paper's models), world"
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="override a key of the config, e.g. --set shots.min_seconds=1.5"),
]
Plugins = Annotated[
    list[str],
    typer.Option(
        "--plugin", metavar="FILE.py", help="a Python file with parts of your own (docs/extending.md); it is run"
    ),
]
Executor = Annotated[str | None, typer.Option(help="ray (actor pools, the default) or inline (this one process)")]
Workers = Annotated[int | None, typer.Option(min=1, help="worker processes; default: one a core, as memory allows")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on, e.g. auto or ray://head:10001")]
Seed = Annotated[int | None, typer.Option(help="order of the clips in the shards")]


@app.command()
def run(
    sources: Sources,
    out: Annotated[str, typer.Option("--out", "-o", help="folder to make: annotated/ and curated/ inside")],
    config: ConfigName = "quickstart",
    set_: Overrides = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    executor: Executor = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Annotate, then select with the config's selection: videos in, shards out.

    winnow run videos/ --out out
    winnow run videos/ --out out --config svd --address auto
    """
    with errors():
        from pipelines.curated.preflight import check_run

        resolved = config_of(config, set_, plugin)
        place = place_of(resolved, executor, workers, address)
        check_run(resolved, f"{out}/curated")
        failed = _annotate(sources, f"{out}/annotated", resolved, None, place, False)
        cluster = cluster_of(resolved, "inline" if place.executor == "inline" else None, address)
        failed += _select(f"{out}/annotated", f"{out}/curated", resolved, resolved.filters, workers, cluster=cluster)
    raise typer.Exit(WITH_FAILURES if failed else DONE)


@app.command()
def annotate(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE...]",
            help="videos, folders, globs or lists; none: the videos that are in the dataset already",
        ),
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="the dataset to make, or to resume")] = ...,
    config: ConfigName = "quickstart",
    set_: Overrides = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    stages: Annotated[
        str | None,
        typer.Option(
            help="only these stages and those they need, e.g. shots,motion,text. Run again with more to add the rest"
        ),
    ] = None,
    executor: Executor = None,
    workers: Workers = None,
    address: Address = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="retry videos, and stages on clips, that are recorded as failed")
    ] = False,
) -> None:
    """Find the clips of videos and score them: every clip is kept, with all its scores.

    Interrupt it at any time: the same command resumes it.

      winnow annotate videos/ --out dataset
      winnow annotate list.jsonl --out dataset --stages shots,motion,text
      winnow annotate --out dataset            (fills in the stages that are missing)
    """
    with errors():
        resolved = config_of(config, set_, plugin)
        chosen = None if stages is None else stages_of(stages, resolved)
        place = place_of(resolved, executor, workers, address)
        failed = _annotate(sources or [], out, resolved, chosen, place, retry_failed)
    raise typer.Exit(WITH_FAILURES if failed else DONE)


@app.command()
def select(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="a folder that `winnow annotate` made")],
    out: Annotated[str, typer.Option("--out", "-o", help="the curated dataset to make: a folder or URL")],
    where: Annotated[
        list[str],
        typer.Option(
            metavar="SQL",
            help="keep clips for which this is true, e.g. \"motion_score > 2 AND caption_merged LIKE '%car%'\"",
        ),
    ] = [],  # noqa: B006
    drop_bottom: Annotated[
        list[str], typer.Option(metavar="COLUMN=PERCENT", help="drop the lowest of all clips, e.g. motion_score=25%")
    ] = [],  # noqa: B006
    drop_top: Annotated[
        list[str], typer.Option(metavar="COLUMN=PERCENT", help="drop the highest, e.g. text_area=25%")
    ] = [],  # noqa: B006
    minimum: Annotated[
        list[str], typer.Option("--min", metavar="COLUMN=VALUE", help="keep at least, e.g. motion_score=2.5")
    ] = [],  # noqa: B006
    maximum: Annotated[
        list[str], typer.Option("--max", metavar="COLUMN=VALUE", help="keep at most, e.g. text_area=0.07")
    ] = [],  # noqa: B006
    preset: Annotated[str | None, typer.Option(help=preset_help())] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="take selection and export from this config; default: the config of the dataset",
        ),
    ] = None,
    set_: Overrides = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    format_: Annotated[str | None, typer.Option("--format", help="how the clips are written, e.g. parquet")] = None,
    shard_size: Annotated[str | None, typer.Option(help="approximate size of a shard, e.g. 256MB")] = None,
    seed: Seed = None,
    executor: Annotated[
        str | None,
        typer.Option(
            help="who cuts: inline (processes of this machine, the default) or ray (workers of a cluster; "
            "the default with an address)"
        ),
    ] = None,
    workers: Workers = None,
    address: Address = None,
    source_root: Annotated[
        list[str],
        typer.Option(
            "--source-root",
            metavar="OLD=NEW",
            help="sources were moved: the folder or URL when they were annotated, and where it is now",
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the funnel and stop")] = False,
) -> None:
    """Keep the clips that pass the filters, and write them with their video bytes as shards.

    Scores are not computed again: another selection takes seconds, plus the time to cut the clips. Filters given here replace
    the config's selection.

      winnow select dataset --out curated --drop-bottom motion_score=25% --drop-top text_area=25%
      winnow select dataset --out curated --where "num_frames >= 48 AND source_columns->>'licence' = 'cc'" --dry-run
      winnow select dataset --out curated --where "NOT interlaced AND bitrate > 1e6" --source-root /mnt/old=/data/new
    """
    with errors():
        from curate.selection.filters import filters_from_options, parse_filters

        resolved = recorded_config(dataset, set_, plugin) if config is None else config_of(config, set_, plugin)
        resolved = with_export(resolved, seed=seed, shard_size=shard_size, format=format_)
        filters = filters_from_options(where, minimum, maximum, drop_bottom, drop_top)
        if preset:
            filters = parse_filters(preset, resolved.parts.presets) + filters
        filters = filters or ([] if preset else resolved.filters)
        if dry_run:
            _funnel(dataset, filters)
            raise typer.Exit(DONE)
        cluster = cluster_of(resolved, executor, address)
        failed = _select(dataset, out, resolved, filters, workers, source_roots_of(source_root), cluster)
    raise typer.Exit(WITH_FAILURES if failed else DONE)


@app.command()
def stats(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET|CURATED", help="a folder or URL that annotate, select or run made")
    ],
) -> None:
    """Show what is in a dataset: funnel, score quantiles, failures by reason, seconds by stage."""
    with errors():
        from curate.base.store import store_of
        from pipelines.dataset import statistics
        from pipelines.dataset.empty import why_empty

        filters = why = None
        if store_of(dataset).exists("dataset.json"):
            made = recorded_config(dataset)
            filters, why = made.filters, why_empty(made.model_dump(mode="json"))
        statistics.show(statistics.read(dataset, filters, why_null=why), out_console)


@app.command()
def models(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="a YAML file, or a shipped config")] = "quickstart",
    set_: Overrides = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """List the weights that a config needs, where they were found, and how to get what is missing."""
    with errors():
        from rich.table import Table

        from pipelines.annotation.models import weights

        resolved = config_of(config, set_, plugin)
        found = weights(resolved, list(resolved.parts.stages))
        table = Table("column", "model", "found", title=f"models of {config}", title_justify="left")
        for column, item in found:
            table.add_row(
                column, item.model, Text(item.source, style="green") if item.path else Text("missing", style="red")
            )
        out_console.print(table)
        missing = {item.get: item for _, item in found if item.path is None}
        for item in missing.values():
            out_console.print(Text(f"{item.model}: {item.get}"), soft_wrap=True)
        if not found:
            out_console.print("this config needs no weights")
    raise typer.Exit(WITH_FAILURES if missing else DONE)


def _annotate(sources, out, config, stages, place, retry_failed) -> bool:
    """Run `annotate`; True if failures were recorded."""
    from pipelines.annotation.annotate import annotate as job
    from pipelines.cli.progress import LiveProgress, print_summary
    from pipelines.curated.preflight import check_keys

    check_keys(config, stages)
    with LiveProgress(err_console) as live:
        summary = job(sources, out, config, place=place, watcher=live, stages=stages, retry_failed=retry_failed)
    print_summary(out_console, summary, out)
    return summary.anything_failed


def _select(dataset, out, config, filters, workers, source_roots=None, cluster=None) -> int:
    """Run `select`; returns how many of the kept clips could not be cut."""
    from pipelines.cli.progress import CutLine, print_curated
    from pipelines.curated.curated import CuratedRequest, Work, make_curated
    from pipelines.dataset.dataset import Dataset

    request = CuratedRequest.of(config, filters, source_roots)
    with CutLine(err_console) as line:
        work = Work(config.decode.cut_limits, workers, progress=line.update, cluster=cluster, note=line.note)
        made = make_curated(Dataset(dataset), request, out, work)
    print_curated(out_console, made)
    return len(made.failed)


def _funnel(dataset, filters) -> None:
    from curate.selection.selection import select as choose
    from pipelines.dataset.dataset import Dataset
    from pipelines.dataset.empty import why_empty
    from pipelines.dataset.statistics import funnel_table

    data = Dataset(dataset)
    chosen = choose(data.labelled_sql, filters, why_null=why_empty(data.config))
    out_console.print(funnel_table(chosen.to_dict()["funnel"], (chosen.clips, chosen.hours)))


def _version(wanted: bool) -> None:
    if wanted:
        out_console.print(f"winnow {version('winnow')}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


training_cli.register(app)
inspector.register(app)
compacting.register(app)
watching_cli.register(app)
capacity_cli.register(app)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
