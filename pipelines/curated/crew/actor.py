"""One worker of Ray: it cuts clips and writes shards, and answers with counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from curate.base.files import DiskError
from curate.base.store.places import StoreError, join, store_of
from curate.parts import PluginError
from pipelines.config import ConfigError, resolve
from pipelines.curated.cutting import CutJob, CutterError, Cutters
from pipelines.curated.plan.planned import PlannedClips, SourceRoots
from pipelines.curated.rechecking import Recheck
from pipelines.curated.request import PARTIAL
from pipelines.curated.scratch import scratch_folder
from pipelines.curated.shards import ShardPlan, ShardSet
from pipelines.curated.spool import Spool
from pipelines.curated.worker import ShardWorker

__all__ = ["CuttingActor"]


class CuttingActor:
    """One worker. spec: as `Crew` makes it. Its methods answer with plain values; what kept it from a task is the text
    under `stopped`."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.refused: str | None = None
        self.closing = ExitStack()
        try:
            self.worker = self._worker(spec)
        except (ConfigError, PluginError, StoreError, DiskError) as error:  # a plugin: its file is not on this machine
            self.refused = str(error)

    def _worker(self, spec: Mapping[str, Any]) -> ShardWorker:
        store = store_of(spec["out"])
        partial = store_of(join(spec["out"], PARTIAL))
        scratch = self.closing.enter_context(scratch_folder(partial))
        shards = ShardSet(
            store=store,
            folder=spec["folder"],
            footers=f"{PARTIAL}/footers",
            format=resolve(json.loads(spec["config"]), "the job's config").export.chosen,
            schema=pa.ipc.read_schema(pa.py_buffer(spec["schema"])),
            scratch=scratch,
        )
        plan = store_of(join(spec["out"], PARTIAL, "plan"))
        place = join(spec["out"], PARTIAL, "spool")
        clips = PlannedClips(plan, spec["count"], spec["options"], SourceRoots(spec["roots"]), place)
        cutters = self.closing.enter_context(Cutters(1, **spec["child"]))
        return ShardWorker(clips, shards, Recheck(spec["conditions"]), cutters, Spool(place, scratch))

    def ready(self) -> str | None:
        """Why it cannot work; None where it can."""
        return self.refused

    def sample(self, position: int) -> dict[str, Any]:
        return self._answer(lambda: self.worker.sample(position, position + 1)[position])

    def together(self, jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """jobs: the fields of each `CutJob`."""
        return self._answer(lambda: sum(map(len, self.worker.together([[CutJob.of(job) for job in jobs]]))))

    def write(self, plan: Sequence[int]) -> dict[str, Any]:
        """plan: the fields of a `ShardPlan`."""
        return self._answer(lambda: next(self.worker.write([ShardPlan(*plan)])))

    def close(self) -> None:
        self.closing.close()

    def _answer(self, work: Callable[[], Any]) -> dict[str, Any]:
        try:
            return {"done": work()}
        except (CutterError, StoreError, DiskError) as error:
            return {"stopped": str(error)}
        except FileNotFoundError as error:
            return {
                "stopped": f"{error.filename or error}: is not there: put --out where all machines can read and write"
            }
