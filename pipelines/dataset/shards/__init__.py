"""The shards of a dataset: how workers commit them, the manifest that names them, and how small ones become large ones."""

from pipelines.dataset.shards.footer import REPLACED, ROWS, Footer, source_digests
from pipelines.dataset.shards.manifest import Manifest
from pipelines.dataset.shards.plans import drop_plans, read_plans, write_plan
from pipelines.dataset.shards.reading import read_unit
from pipelines.dataset.shards.writing import Writer, write_shard

__all__ = [
    "REPLACED",
    "ROWS",
    "Footer",
    "Manifest",
    "Writer",
    "drop_plans",
    "read_plans",
    "read_unit",
    "source_digests",
    "write_plan",
    "write_shard",
]
