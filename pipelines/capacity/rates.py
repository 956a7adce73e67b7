"""How long a worker takes for a second of footage, by pool: measured where it was, assumed where it was not.

Measured: CPU seconds of one core, which the adapters declare (`cpu_seconds`) and `tests.benchmarks.pipeline` prints, and those of
the decode below; or the times in a dataset. Assumed: everything on a GPU, of which none was measured for this code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.base.store.files import database
from curate.observers.observer import Observer
from pipelines.annotation.models import uses
from pipelines.annotation.pools import Pool
from pipelines.config import Config
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.statistics import footage_sql

# CPU seconds of one core for a second of H.264 at 24 to 30 pictures a second: decode, shots, motion, stills. Measured at 640x360
# (0.061) and 1920x1080 (0.090); larger pictures are extrapolated.
DECODE_SECONDS, DECODE_PIXEL_SECONDS = 0.057, 1.6e-8
DECODED = "decode"  # with all observers: they share one time in a dataset
CLIPS_AN_HOUR = 440.0  # of edited footage: 15 clips in two minutes
GPU_WORKER_CPU = 0.05  # s for a clip: stills and frames are read, and scaled, on the CPU (assumed)
PASS_SECONDS = 0.030  # of one pass of a batch through a network of some billion weights, called from Python (assumed)
TFLOPS = {"bfloat16": 150.0, "float16": 150.0, "float32": 30.0}  # reached on an H100-class GPU (assumed)
ASSUMED_GPU = (
    "times on a GPU are assumed, not measured: 30 ms for each pass of a batch (transformers' generate is bound by calls), "
    "150 TFLOP/s in between in bfloat16, 30 in float32, as of an H100"
)


@dataclass(frozen=True)
class Footage:
    """What comes in. height: of the pictures. clips: in an hour."""

    height: int = 1080
    clips: float = CLIPS_AN_HOUR


@dataclass(frozen=True)
class Cost:
    """Of one stage, or of a model of it, for a second of footage. cpu, gpu: seconds of a core, of a GPU. source: of the
    figures."""

    stage: str
    name: str
    cpu: float
    gpu: float = 0.0
    source: str = "measured"


@dataclass(frozen=True)
class Rates:
    """Costs by pool. assumed: what is not measured, in sentences."""

    pools: Sequence[Sequence[Cost]]
    assumed: list[str] = field(default_factory=list)

    def cpu(self, pool: int) -> float:
        return sum(cost.cpu for cost in self.pools[pool])

    def gpu(self, pool: int) -> float:
        return sum(cost.gpu for cost in self.pools[pool])

    def seconds(self) -> list[float]:
        """Of a worker for a second of footage, by pool: it uses its core and its GPU one after the other."""
        return [self.cpu(at) + self.gpu(at) for at in range(len(self.pools))]


def declared(config: Config, pools: Sequence[Pool], footage: Footage) -> Rates:
    """From what the parts declare."""
    assumed: list[str] = []
    costs = [_declared(config, pool, footage, assumed) for pool in pools]
    if any(cost.gpu for pool in costs for cost in pool):
        assumed.append(ASSUMED_GPU)
    return Rates(costs, list(dict.fromkeys(assumed)))


def _declared(config: Config, pool: Pool, footage: Footage, assumed: list[str]) -> list[Cost]:
    found = []
    each = footage.clips / 3600  # clips in a second of footage
    if any(issubclass(config.parts.stages[name], Observer) for name in pool.stages):
        found.append(Cost(DECODED, DECODED, decode_seconds(footage.height)))
    if pool.gpu:
        found.append(Cost("", "pictures for the GPU", GPU_WORKER_CPU * each, 0.0, "assumed"))
    seen = set()
    for stage in pool.stages:
        for use in uses(config, [stage], pool.without):
            if use.section is None or use.key in seen:
                continue
            seen.add(use.key)  # an embedder keeps what it has computed for another stage
            adapter = config.parts.adapter_of(use.section)
            name = f"{use.column} ({use.kind})"
            if pool.gpu and adapter.gpu:
                found.append(Cost(stage, name, 0.0, gpu_seconds(adapter, use.section) * each, "assumed"))
            elif adapter.cpu_seconds is None:
                assumed.append(f"{name} was never measured on a CPU: it is counted as nothing; --rates DATASET tells")
            else:
                found.append(Cost(stage, name, adapter.cpu_seconds * each))
    return found


def decode_seconds(height: int) -> float:
    """CPU seconds for a second of footage of 16:9."""
    return DECODE_SECONDS + DECODE_PIXEL_SECONDS * height * height * 16 / 9


def gpu_seconds(adapter: Any, section: Any) -> float:
    """Assumed seconds of a GPU for a clip."""
    dtype, batch = getattr(section, "dtype", "float32"), getattr(section, "batch", 1)
    return adapter.gpu_passes * PASS_SECONDS / batch + adapter.gpu_flops / (TFLOPS[dtype] * 1e12)


def of_dataset(place: str, config: Config, pools: Sequence[Pool], otherwise: Rates) -> tuple[Rates, Footage]:
    """From the times that a dataset's run took by stage; stages that it lacks, and GPU pools that it did not run, as declared."""
    data, db = Dataset(place), database()
    videos = data.videos_sql
    facts = [row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {videos}").fetchall()]
    per_video = (
        f"SELECT {footage_sql(facts)} AS d, any_value(height) AS h FROM {videos} WHERE status = 'ok' GROUP BY video_id"
    )
    total, height = db.execute(f"SELECT coalesce(sum(d), 0), coalesce(median(h), 0) FROM ({per_video})").fetchall()[0]
    if not total:
        raise ValueError(f"--rates {place}: no footage was annotated there: name a dataset with good videos")
    (clips,) = db.execute(f"SELECT count(*) FROM {data.clips_sql}").fetchall()[0]
    spent = dict(
        db.execute(
            f"""SELECT e.key, sum(e.value) FROM (SELECT unnest(map_entries(seconds)) AS e FROM {videos} WHERE status = 'ok')
                GROUP BY 1"""
        ).fetchall()
    )
    on_gpu = bool(data.config.get("execution", {}).get("gpus"))
    measured = {name: seconds / total for name, seconds in spent.items()}
    found = []
    for pool, costs in zip(pools, otherwise.pools, strict=True):
        if pool.gpu and not on_gpu:
            found.append(costs)
            continue
        apart = {
            name for name in pool.stages if {role.key for role in config.parts.stages[name].models} & set(pool.without)
        }
        known = [name for name in (DECODED, *pool.stages) if name in measured and name not in apart]
        own = [cost for cost in costs if cost.stage not in known]  # a stage in two pools has one time in the dataset
        times = [(measured[name], 0.0) if not pool.gpu else (0.0, measured[name]) for name in known]
        found.append([*(Cost(name, name, *time, place) for name, time in zip(known, times, strict=True)), *own])
    return Rates(found, otherwise.assumed), Footage(int(height), clips / total * 3600)
