"""The shards of a dataset: how workers commit them, the manifest that names them, and how small ones become large ones."""

from pipelines.dataset.shards.compaction import Compacted, compact, compact_group, forget, open_for_writing, sweep
from pipelines.dataset.shards.current import Current, ShardState
from pipelines.dataset.shards.footer import REPLACED, ROWS, Footer, source_digests
from pipelines.dataset.shards.manifest import Manifest
from pipelines.dataset.shards.reading import read_unit
from pipelines.dataset.shards.writing import Writer, write_shard

__all__ = [
    "REPLACED",
    "ROWS",
    "Compacted",
    "Current",
    "Footer",
    "Manifest",
    "ShardState",
    "Writer",
    "compact",
    "compact_group",
    "forget",
    "open_for_writing",
    "read_unit",
    "source_digests",
    "sweep",
    "write_shard",
]
