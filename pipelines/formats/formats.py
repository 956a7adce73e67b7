"""The formats that a curated dataset can have, in one list: the first one is the default."""

from __future__ import annotations

from pipelines.formats.format import Format
from pipelines.formats.parquet import Parquet

FORMATS: list[type[Format]] = [Parquet]
