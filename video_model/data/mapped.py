"""Columns of numbers in Arrow files that processes map: one copy in the machine's memory, whoever reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.base.files import atomic_file

ABOUT = b"about"


def write_columns(path: Path, columns: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write columns [N] of numbers and JSON values beside them; the file appears whole or not at all. Raises DiskError."""
    arrays = [pa.array(np.ascontiguousarray(values)) for values in columns.values()]
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in zip(columns, arrays, strict=True)],
        metadata={ABOUT: json.dumps(about).encode()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as stream, pa.ipc.new_file(stream, schema) as file:
        file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def map_columns(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns, mapped and read-only, and the JSON values beside them. Raises OSError, ArrowException."""
    with pa.memory_map(str(path)) as mapped:
        file = pa.ipc.open_file(mapped)
        batch = file.get_batch(0)
        about = json.loads(file.schema.metadata[ABOUT])
    return {name: batch.column(name).to_numpy(zero_copy_only=True) for name in batch.schema.names}, about


def map_table(path: Path) -> pa.Table:
    """The batches of an Arrow file as a table, mapped."""
    with pa.memory_map(str(path)) as mapped:
        return pa.ipc.open_file(mapped).read_all()
