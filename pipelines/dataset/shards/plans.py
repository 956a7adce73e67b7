"""Plans: what became of inputs before their units ran, committed by the workers that opened them.

    DATASET/plan/part-<hash>.parquet    a row per unit, refused or failed input, or duplicate: the packed unit, and its path

They spare a killed job the opening of its files, and are deleted when it ends.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store import Store
from curate.clip import Unit, path_to_text
from pipelines.dataset.files import parquet_bytes

__all__ = ["PLANS", "drop_plans", "read_plans", "write_plan"]

PLANS = pa.schema(
    [
        ("video_path", pa.string()),
        ("bytes", pa.int64()),
        ("modified", pa.int64()),
        ("version", pa.string()),
        ("unit", pa.large_binary()),  # `Unit.pack`
        ("key", pa.string()),
    ]
)
GROUP_ROWS = 1024


def write_plan(store: Store, units: Sequence[Unit], key: str = "") -> str:
    """Commit planned units, in order. key: of what their division depends on (the config); plans of another key are not
    read. Returns the name."""
    units_packed = [unit.pack() for unit in units]
    rows = [
        {
            "video_path": path_to_text(unit.video.path),
            **{name: unit.facts.get(name) for name in ("bytes", "modified", "version")},
            "unit": packed,
            "key": key,
        }
        for unit, packed in zip(units, units_packed, strict=True)
    ]
    digest = hashlib.blake2b(key.encode(), digest_size=8)
    for packed in units_packed:
        digest.update(packed)
    name = f"plan/part-{digest.hexdigest()}.parquet"
    store.put(name, parquet_bytes(pa.Table.from_pylist(rows, schema=PLANS), GROUP_ROWS))
    return name


def read_plans(store: Store, key: str = "") -> Iterator[pa.RecordBatch]:
    """The committed plans with this key, as PLANS, a batch at a time."""
    for entry in store.list("plan/part-"):
        try:
            file = pq.ParquetFile(io.BytesIO(store.read(entry.name)))
            batches = list(file.iter_batches(GROUP_ROWS))
        except (pa.ArrowInvalid, OSError):  # what a plan spares is found out again
            continue
        for batch in batches:
            kept = batch.filter(pa.compute.equal(batch["key"], key))
            if kept.num_rows:
                yield kept


def drop_plans(store: Store) -> None:
    """Delete the plans of a job that is done."""
    for entry in store.list("plan/"):
        store.delete(entry.name)
