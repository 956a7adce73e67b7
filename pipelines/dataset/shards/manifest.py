"""The manifest: a light row of every committed unit, so that nobody has to read a hundred thousand footers.

    DATASET/manifest/part-<hash>.parquet    rows of `pipelines.dataset.shards.footer.ROWS`, of some shards

It is only ever a copy: a shard counts because its file is in videos/ and has its twin in clips/. Shards that no part names are
read, rows of shards that are gone are passed over, and a lost manifest is made again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store import Store
from pipelines.dataset.files import parquet_bytes
from pipelines.dataset.shards.current import Current
from pipelines.dataset.shards.footer import ROWS, Footer
from pipelines.dataset.shards.reading import read_footer

__all__ = ["Manifest"]

EVERY = 30.0  # s between parts
PART_ROWS = 50_000
WHOLE_ROWS = 1_000_000  # of a part of a manifest that is written anew
GROUP_ROWS = 20_000
READERS = 16


class Manifest:
    """The manifest of the dataset in a store: to add footers of new shards to it, and to load all of them."""

    def __init__(self, store: Store, *, every: float = EVERY) -> None:
        self.store, self.every = store, max(every, store.pause)
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
            self._put(pa.concat_tables([footer.rows for footer in self._pending]))
        self._pending, self._rows = [], 0

    def load(self) -> Iterator[pa.RecordBatch]:
        """ROWS in batches: of every unit, once, as its newest shard has it, and of what counts no more (REPLACED)."""
        current = self.current()
        try:
            yield from current.rows()
        finally:
            current.close()

    def current(self) -> Current:
        """Which rows count, as of now."""
        return Current(self.store, self._read)

    def adopt(self, current: Current) -> None:
        """Write the rows of shards that no part named as parts, so that they are read no more."""
        if current.unnamed is not None:
            for batch in pq.ParquetFile(current.unnamed).iter_batches(WHOLE_ROWS):
                self._put(pa.Table.from_batches([batch]))

    def rebuild(self) -> None:
        """Write the whole manifest anew, from itself and from the footers of shards that it does not name."""
        old = {entry.name for entry in self.store.list("manifest/")}
        current = self.current()
        made, batches, rows = set(), list[pa.RecordBatch](), 0
        try:
            for batch in current.rows(stale=True):
                batches.append(batch)
                rows += batch.num_rows
                if rows >= WHOLE_ROWS:
                    made.add(self._put(pa.Table.from_batches(batches)))
                    batches, rows = [], 0
            if batches:
                made.add(self._put(pa.Table.from_batches(batches)))
        finally:
            current.close()
        for name in sorted(old - made):
            self.store.delete(name)

    def _put(self, table: pa.Table) -> str:
        data = parquet_bytes(table, GROUP_ROWS)
        name = f"manifest/part-{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet"
        self.store.put(name, data)
        return name

    def _read(self, shards: list[str], path: Path) -> None:
        """Write the rows of shards that no part names to a local file, from their footers. Those that vanish are left out."""

        def read(shard: str) -> pa.Table | None:
            try:
                return read_footer(self.store, shard).rows
            except FileNotFoundError:
                return None

        readers = 1 if self.store.folder is not None else READERS
        with ThreadPoolExecutor(readers) as pool, pq.ParquetWriter(path, ROWS) as writer:
            for first in range(0, len(shards), 4096):
                found = [rows for rows in pool.map(read, shards[first : first + 4096]) if rows is not None]
                if found:
                    writer.write_table(pa.concat_tables(found))
