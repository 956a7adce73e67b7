"""The manifest: a light row of every committed unit, so that nobody has to read a hundred thousand footers.

    DATASET/manifest/part-<hash>.parquet    rows of `pipelines.dataset.shards.footer.ROWS`, of some shards

It is only ever a copy: a shard counts because it is in videos/. Shards that no part names are read, rows of shards that are
gone are passed over, and a lost manifest is made again.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.base.store import Store
from pipelines.dataset.files import parquet_bytes
from pipelines.dataset.shards.footer import ROWS, Footer
from pipelines.dataset.shards.reading import read_footer

__all__ = ["Manifest"]

EVERY = 30.0  # s between parts
PART_ROWS = 50_000
READERS = 16
GROUP_ROWS = 10_000


class Manifest:
    """The manifest of the dataset in a store: to add footers of new shards to it, and to load all of them."""

    def __init__(self, store: Store, *, every: float = EVERY) -> None:
        self.store, self.every = store, every
        self._pending: list[Footer] = []
        self._rows, self._since = 0, 0.0

    def add(self, footer: Footer) -> None:
        """Take the footer of a committed shard; a part is written now and then."""
        if not self._pending:
            self._since = time.monotonic()
        self._pending.append(footer)
        self._rows += footer.rows.num_rows
        if self._rows >= PART_ROWS or time.monotonic() - self._since >= self.every:
            self.flush()

    def flush(self) -> None:
        """Write what was added as a part."""
        if self._pending:
            self._put(self._pending)
        self._pending, self._rows = [], 0

    def load(self) -> Iterator[pa.RecordBatch]:
        """ROWS of every committed shard, in batches: of its units, replaced ones too, and of what it replaces."""
        there = {name for name in self.shards()}
        known: set[str] = set()
        for entry in list(self.store.list("manifest/part-")):
            table = self._part(entry.name)
            if table is None:
                continue
            named = set(pc.unique(table["shard"]).to_pylist())
            wanted = pa.array(sorted((named & there) - known), pa.string())
            known |= named
            yield from table.filter(pc.is_in(table["shard"], wanted)).to_batches(GROUP_ROWS)
        found: list[Footer] = []
        with ThreadPoolExecutor(READERS) as pool:
            for footer in pool.map(lambda name: read_footer(self.store, name), sorted(there - known)):
                found.append(footer)
                yield from footer.rows.to_batches(GROUP_ROWS)

    def shards(self) -> Iterator[str]:
        """Names of the committed shards, by the files in videos/."""
        for entry in self.store.list("videos/part-"):
            if entry.name.endswith(".parquet"):
                yield entry.name.removeprefix("videos/part-").removesuffix(".parquet")

    def rebuild(self) -> None:
        """Write the whole manifest anew, from itself and from footers of shards that it does not name."""
        table = pa.Table.from_batches(self.load(), schema=ROWS)
        old = [entry.name for entry in self.store.list("manifest/")]
        made = self._put_table(table)
        for name in old:
            if name != made:
                self.store.delete(name)

    def _put(self, footers: list[Footer]) -> str:
        return self._put_table(pa.concat_tables([footer.rows for footer in footers]))

    def _put_table(self, table: pa.Table) -> str:
        data = parquet_bytes(table, GROUP_ROWS)
        name = f"manifest/part-{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet"
        self.store.put(name, data)
        return name

    def _part(self, name: str) -> pa.Table | None:
        try:
            return pq.read_table(io.BytesIO(self.store.read(name)), schema=ROWS)
        except (pa.ArrowInvalid, FileNotFoundError):  # what it spares is read from the shards
            return None
