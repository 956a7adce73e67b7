"""What an export format is: it turns rows and clip bytes into the files of one shard, and says how they are loaded.

    class Pairs(Format):
        name, description, needs = "pairs", "an mp4 and a txt for each clip", ("caption_merged",)

        def open(self, path, schema):
            return PairsShard(path)

    class PairsShard(ShardFile):
        def __init__(self, path):
            self.path = path
            path.mkdir()

        def add(self, row, clip):
            (self.path / f"{row['clip_id']}.mp4").write_bytes(clip)
            (self.path / f"{row['clip_id']}.txt").write_text(row["caption_merged"] or "")

With `Pairs` in `FORMATS`, or in the list PARTS of a plugin, `export.format: pairs` and `winnow select --format pairs` work. Which clips go in which shard,
that a shard appears whole or not at all, and what an interrupted job has still to do is the business of
`pipelines.curated.shards`, for all formats alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from curate.base.section import Section
from curate.clip import Column
from curate.part import Part

__all__ = ["Format", "ShardFile"]


class ShardFile:
    """One shard in the making. What it writes is at its own path only: the caller moves it to its place."""

    def add(self, row: Mapping[str, Any], clip: bytes) -> None:
        """One clip: its row, with the columns of `Format.schema` but those that the format adds; and its mp4."""
        raise NotImplementedError

    def finish(self, footer: Mapping[str, Any]) -> None:
        """Write what is left, and close. footer: counts, JSON values; to be kept only where `Format.footer` reads them."""

    def abandon(self) -> None:
        """Close what is still open, without an error: after `finish`, or where the shard was given up and will be deleted."""


class Format(Part):
    """What is to be known of a format. A clip's mp4 and its row come to every format.

    name: in a config. suffix: of a shard's name; "" for a folder. needs: columns of the annotated clips that it cannot do
    without, such as a caption; `still_first` and `still_last` are in a row only where they are needed. columns: that it
    adds to a row. Options: its section of the config.
    """

    description: ClassVar[str] = ""
    suffix: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[Column, ...]] = ()
    Options: ClassVar[type[Section]] = Section

    def __init__(self, options: Section | None = None) -> None:
        self.options = options or self.Options()

    def open(self, path: Path, schema: pa.Schema) -> ShardFile:
        """Begin a shard at `path`, where nothing is."""
        raise NotImplementedError

    def schema(self, fields: pa.Schema) -> pa.Schema:
        """Schema of the rows, with field metadata. fields: of all columns, the format's own among them."""
        return fields

    def footer(self, shard: BinaryIO) -> dict[str, Any] | None:
        """What `finish` was given, read out of a shard that is whole and one file. A format that has no place for it, or
        makes folders, leaves this method out: the counts are kept beside its shards until all are there.

        shard: a seekable stream."""
        return None

    def loading(self) -> str:
        """Markdown for the card: how the shards are loaded."""
        return f"The clips are in `data/`, as {self.description}.\n"

    def header(self, schema: pa.Schema, counts: Mapping[str, Any]) -> dict[str, Any]:
        """What the card's YAML header says beside the names and tags: for the hub and `datasets`."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Name and options, where these are not the defaults: what has to be equal to resume."""
        options = self.options.model_dump(mode="json", exclude_defaults=True)
        return {"name": self.name, **({"options": options} if options else {})}
