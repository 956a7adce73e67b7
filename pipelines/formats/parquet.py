"""Parquet shards: rows with the clip's bytes inside, as the hub's Video feature wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curate.clip import Column
from pipelines.dataset.files import FOOTER
from pipelines.formats.format import Format, ShardFile

GROUP_BYTES, GROUP_ROWS = 16_000_000, 100  # a reader that streams holds one row group
COMPRESSED = ("video.bytes", "still_middle")  # already
VIDEO = Column(
    "video",
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "the clip: an mp4 without sound, starting at time 0, and its name",
)
USE = """\
```python
from datasets import Video, load_dataset

clips = load_dataset("PATH OF THIS FOLDER", split="train", streaming=True)
clips = clips.cast_column("video", Video(decode=False))  # bytes; leave out to decode with torchcodec
clip = next(iter(clips))
mp4, caption = clip["video"]["bytes"], clip["caption_merged"]
```
"""


class Parquet(Format):
    name = "parquet"
    description = "Parquet shards with the clips' bytes inside, for Hugging Face datasets and Winnow's trainer"
    suffix = ".parquet"
    columns = (VIDEO,)

    def open(self, path: Path, schema: pa.Schema) -> ParquetShard:
        return ParquetShard(path, schema)

    def schema(self, fields: pa.Schema) -> pa.Schema:
        """With the features of `datasets` in its metadata, the column of clips as a Video."""
        from datasets import Features, Video

        plain = pa.schema([pa.field(field.name, field.type) for field in fields if field.name != VIDEO.name])
        features = Features.from_arrow_schema(plain) | {VIDEO.name: Video()}
        info = {"info": {"features": Features({name: features[name] for name in fields.names}).to_dict()}}
        return fields.with_metadata({b"huggingface": json.dumps(info).encode()})

    def footer(self, shard: BinaryIO) -> dict[str, Any]:
        return json.loads(pq.read_metadata(shard).metadata[FOOTER])

    def loading(self) -> str:
        return USE

    def header(self, schema: pa.Schema, counts: Mapping[str, Any]) -> dict[str, Any]:
        from datasets import Features

        split = {"name": "train", "num_examples": counts["clips"], "num_bytes": counts["bytes"]}
        return {
            "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
            "dataset_info": {"features": Features.from_arrow_schema(schema)._to_yaml_list(), "splits": [split]},
        }


class ParquetShard(ShardFile):
    """Rows are held until they fill a row group."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows: list[dict[str, Any]] = []
        self.held = 0
        self.stream = open(path, "wb")  # noqa: SIM115
        leaves = _leaves(schema)
        light = [name for name in leaves if name not in COMPRESSED]
        self.writer = pq.ParquetWriter(
            self.stream,
            schema,
            compression={name: "NONE" if name in COMPRESSED else "ZSTD" for name in leaves},
            use_dictionary=light,
            write_statistics=light,
        )

    def add(self, row: Mapping[str, Any], clip: bytes) -> None:
        self.rows.append({**row, VIDEO.name: {"bytes": clip, "path": f"{row['clip_id']}.mp4"}})
        self.held += len(clip)
        if self.held >= GROUP_BYTES or len(self.rows) >= GROUP_ROWS:
            self._flush()

    def finish(self, footer: Mapping[str, Any]) -> None:
        self._flush()
        self.writer.add_key_value_metadata({FOOTER: json.dumps(footer).encode()})
        self.writer.close()
        self.stream.close()

    def abandon(self) -> None:
        for opened in (self.writer, self.stream):  # where the disk is full closing fails too
            with suppress(OSError, pa.ArrowException):
                opened.close()

    def _flush(self) -> None:
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.held = [], 0


def _leaves(schema: pa.Schema) -> list[str]:
    """The paths of the columns as Parquet stores them: those of a struct apart."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    stored = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [stored.column(i).path for i in range(len(stored))]
