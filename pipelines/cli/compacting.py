"""`winnow compact`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.errors import err_console, errors, out_console


def register(app: typer.Typer) -> None:
    app.command()(compact)


def compact(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="a folder or URL that annotate or run made")],
) -> None:
    """Merge the small shards of a dataset into large ones, and drop rows that newer ones replaced.

    Nothing is computed again, and nothing is lost if it is interrupted. `winnow annotate` does it by itself at its end.

      winnow compact dataset
    """
    with errors():
        from curate.base.store import store_of
        from pipelines.dataset.dataset import DatasetError, read_about
        from pipelines.dataset.lock import held
        from pipelines.dataset.shards import compact as merge

        store = store_of(dataset)
        read_about(store)
        with held(store, "dataset", DatasetError, waiting=err_console.print) as lock:
            found = merge(store, run=lock.run, check=lock.check)
        out_console.print(
            f"{dataset}: {found.before:,} shards are now {found.after:,}; {found.dropped:,} replaced rows dropped",
            highlight=False,
        )
