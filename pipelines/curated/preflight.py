"""What `winnow run` finds out before any work: whether its selection can be made, and its shards be written."""

from __future__ import annotations

import os
from collections.abc import Sequence

import duckdb

from curate.base.sql import quoted
from curate.selection.filters import Filter, SelectionError
from curate.selection.selection import ScoreTable, select
from pipelines.annotation.stages import tables_of
from pipelines.config import Config, ConfigError
from pipelines.curated.request import CuratedRequest, state_of
from pipelines.dataset.empty import why_empty

UNKNOWN = "not known before it has run"


def check_run(config: Config, out: str) -> None:
    """Raise what the selection of a config would raise after hours of annotating.

    out: the folder or URL of the shards. SelectionError: an unknown column, bad SQL, a column that no model of the config
    fills. CuratedError: a folder that holds something else.
    """
    check_filters(config.filters, config)
    # Of the request that `make_curated` compares, only what is known already: not the state of the dataset.
    state_of(out, CuratedRequest.of(config).to_dict())


def check_filters(filters: Sequence[Filter], config: Config) -> None:
    """Bind filters to the columns that annotating with this config makes. SelectionError, as `select` words it."""
    empty = duckdb.from_arrow(tables_of(config.parts).clips.empty_table())
    columns = (f"NULL::{kind} AS {quoted(name)}" for name, kind in zip(empty.columns, empty.types, strict=True))
    nulls = f"(SELECT {', '.join(columns)})"  # one clip without values: enough to look up names and types
    table = ScoreTable(nulls, filters)
    why = why_empty(config.model_dump(mode="json"))
    for chosen in filters:
        if not chosen.rule.on_column:
            mentioned = {name for name in table.types if name.lower() in chosen.sql.lower()}
            unknown = dict.fromkeys(mentioned - why.keys(), UNKNOWN)
            try:
                select(nulls, [chosen], why_null=why | unknown)
            except SelectionError as error:
                if UNKNOWN not in str(error):  # else only null, as the clip without values is: that says nothing
                    raise
        elif chosen.column in why:
            raise SelectionError(f"{chosen.name}: {chosen.column} will be null for every clip ({why[chosen.column]})")


def check_keys(config: Config, stages: Sequence[str] | None) -> None:
    """ConfigError where the variable that holds an endpoint's key is not set. stages: None for all."""
    name = getattr(config.captions.merge, "api_key_env", None)
    captioned = stages is None or {"captions", "similarity"} & set(stages)
    if name and captioned and not os.environ.get(name):
        raise ConfigError(
            f"captions.merge.api_key_env: the environment variable {name} is not set: export the key for "
            f"{config.captions.merge.url}, or leave api_key_env out"
        )
