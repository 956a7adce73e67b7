"""What a large dataset costs to open, to compact, to select from and to count, over simulated rows.

    python -m tests.benchmarks.dataset_scale [--shards 3000] [--units 1000000] [--rows 1000000] [--folder FOLDER]

Each line is a process of its own: CPU seconds of all its threads, wall seconds, and its peak of memory. The data is made in
FOLDER, and used again if it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store import store_of
from curate.base.store.files import database
from curate.clip import Clip, Unit, Video
from curate.parts import Parts
from pipelines.annotation.stages import tables_of
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.files import FOOTER
from pipelines.dataset.shards import ROWS, Manifest, compact, sweep

UNITS_A_SHARD = 1000
SCORES = [f"score_{i}" for i in range(24)]
PLAIN = ("quantile_cont(score_0, 0.25)", "quantile_cont(score_1, 0.75)")


def small_shards(root: Path, count: int) -> None:
    """As the real stages declare them: a unit of two clips in each, written by an older Winnow (no manifest)."""
    tables = tables_of(Parts())
    clips = [
        Clip(
            i * 10, i * 10 + 10, i / 2, i / 2 + 0.5, 0.0, 9.0, values={"motion_score": i / 7, "still_first": b"x" * 300}
        )
        for i in range(2)
    ]
    unit = Unit(Video("/v/0.mp4", "0" * 32), facts={"duration": 4.5, "bytes": 1, "modified": 1}, clips=clips)
    one = {
        "clips": pa.Table.from_pylist([tables.clip_row(unit, clip) for clip in clips], schema=tables.clips),
        "videos": pa.Table.from_pylist([tables.video_row(unit)], schema=tables.videos),
    }
    for number in range(count):
        video = f"{number * 2654435761 % 2**64:016x}{number:016x}"
        footer = {
            "units": [f"{video}-0000"],
            "stages": ["shots", "motion"],
            "generation": 0,
            "replaces": [],
            "models": {},
        }
        values = {
            "clips": {"video_id": [video] * 2, "clip_id": [f"{video}-{at:08d}" for at in (0, 10)]},
            "videos": {"video_id": [video], "video_path": [f"/v/{number}.mp4"]},
        }
        for table, rows in one.items():
            for name, column in values[table].items():
                rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(column))
            path = root / table / f"part-{number * 11400714819323198485 % 2**64:016x}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(
                rows.replace_schema_metadata({FOOTER: json.dumps(footer).encode()}), path, compression="zstd"
            )
    about(root)


def finished(root: Path, units: int) -> None:
    """The manifest of a dataset that is done; of its shards only the names are there."""
    for folder in ("videos", "clips", "manifest"):
        (root / folder).mkdir()
    step = min(units, 1_000_000)
    for first in range(0, units, step):
        ids = np.arange(first, min(first + step, units))
        named = np.array(
            [f"{shard * 11400714819323198485 % 2**64:016x}" for shard in np.unique(ids // UNITS_A_SHARD).tolist()]
        )
        rows = {
            "shard": np.repeat(named, UNITS_A_SHARD)[: len(ids)],
            "video_id": [f"{n * 11400714819323198485 % 2**64:016x}{n:016x}" for n in ids.tolist()],
            "video_path": [f"/data/videos/{n % 1000:03d}/{n}.mp4" for n in ids.tolist()],
            **{name: np.full(len(ids), value) for name, value in (("unit", 0), ("units", 1), ("generation", 0), ("clips", 10))},
            **{name: np.full(len(ids), value) for name, value in (("status", "ok"), ("kind", "file"), ("form", "f"))},
            "stages": np.full(len(ids), "shots,motion,text,captions"), "bytes": ids, "modified": ids,
        }  # fmt: skip
        table = pa.table(
            {f.name: pa.array(rows[f.name], f.type) if f.name in rows else pa.nulls(len(ids), f.type) for f in ROWS}
        )
        pq.write_table(
            table, root / "manifest" / f"part-{first:016x}.parquet", compression="zstd", row_group_size=20_000
        )
        for folder in ("videos", "clips"):
            for shard in named:
                (root / folder / f"part-{shard}.parquet").touch()
    about(root)


def scored(root: Path, rows: int) -> None:
    """Clips with 24 scores, without pictures."""
    draw = np.random.default_rng(0)
    step = min(rows, 50_000)
    for first in range(0, rows, step):
        ids = np.arange(first, min(first + step, rows))
        scores = {name: draw.gamma(2.0, 3.0, len(ids)).astype(np.float32) for name in SCORES}
        start = ids / 10.0
        table = pa.table(
            {
                "clip_id": [f"{n * 11400714819323198485 % 2**64:016x}{n:016x}-00000000" for n in ids.tolist()],
                "start_time": start,
                "end_time": start + 2.0,
                **scores,
            }
        )
        pq.write_table(table, root / f"part-{first:012d}.parquet", compression="zstd", row_group_size=8192)


def about(root: Path) -> None:
    (root / "dataset.json").write_text(json.dumps({"format": 2, "config": {}, "models": {}}))


def listed(root: Path) -> str:
    return "read_parquet([" + ", ".join(f"'{path}'" for path in sorted(root.glob("*.parquet"))) + "])"


def load(root: Path) -> int:
    return sum(batch.num_rows for batch in Manifest(store_of(root)).load())


def rebuild(root: Path) -> int:
    Manifest(store_of(root)).rebuild()
    return len(list((root / "manifest").iterdir()))


def count(root: Path) -> int:
    return database().execute(f"SELECT count(*) FROM {Dataset(root).clips_sql}").fetchall()[0][0]


def shards(root: Path) -> int:
    return len(Dataset(root).shards)


def swept(root: Path) -> int:
    sweep(store_of(root))
    return len(list((root / "videos").iterdir()))


def compacted(root: Path) -> int:
    return compact(store_of(root)).after


def chosen(root: Path) -> int:
    from curate.selection.filters import Filter
    from curate.selection.selection import select

    return select(listed(root), [Filter("drop_bottom", "score_0", 25), Filter("drop_top", "score_1", 25)]).kept


def chosen_where(root: Path) -> int:
    from curate.selection.filters import Filter
    from curate.selection.selection import select

    return select(listed(root), [Filter("drop_bottom", "score_0", 25), Filter("where", sql="score_1 < 9")]).kept


def kept(root: Path) -> int:
    from curate.selection.filters import Filter
    from curate.selection.selection import select

    found = select(listed(root), [Filter("drop_bottom", "score_0", 25), Filter("drop_top", "score_1", 25)])
    return database().execute(f"SELECT count(*) FROM {found.kept_sql}").fetchall()[0][0]


def plain(root: Path) -> int:
    db, clips = database(), listed(root)
    low, high = db.execute(f"SELECT {', '.join(PLAIN)} FROM {clips}").fetchall()[0]
    sql = f"SELECT count(*), sum(end_time - start_time) FROM {clips} WHERE score_0 >= {low!r}::DOUBLE AND score_1 <= {high!r}::DOUBLE"
    return db.execute(sql).fetchall()[0][0]


def quantiles(root: Path) -> int:
    from pipelines.dataset.statistics import _scores

    path = next(root.glob("*.parquet"))
    total = pq.read_metadata(path).num_rows * len(list(root.glob("*.parquet")))
    return len(_scores(database(), listed(root), pq.read_schema(path), total))


def plain_quantiles(root: Path) -> int:
    parts = [f"quantile_cont({name}, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]), count({name})" for name in SCORES]
    return len(database().execute(f"SELECT {', '.join(parts)} FROM {listed(root)}").fetchall()[0])


MAKERS = {"small": small_shards, "finished100k": finished, "finished": finished, "scored": scored}
CASES = {  # of each data, in order
    "finished100k": [load],
    "finished": [load, shards],
    "small": [shards, rebuild, shards, count, swept, compacted, count],
    "scored": [plain, chosen, kept, chosen_where, plain_quantiles, quantiles],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("shards", 3000), ("units", 1_000_000), ("rows", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        return measure(asked.case[0], Path(asked.case[1]))
    with tempfile.TemporaryDirectory() as scratch:
        base = asked.folder or Path(scratch)
        sizes = {"small": asked.shards, "finished100k": 100_000, "finished": asked.units, "scored": asked.rows}
        print(f"{'data':>24} {'what':>16} {'result':>12} {'CPU s':>8} {'wall s':>8} {'peak MB':>8}")
        for data, cases in CASES.items():
            if asked.only in (None, data):
                root = base / f"{data}-{sizes[data]}"
                if not root.exists():
                    root.mkdir(parents=True)
                    MAKERS[data](root, sizes[data])
                for case in cases:
                    command = [
                        sys.executable,
                        "-m",
                        "tests.benchmarks.dataset_scale",
                        "--case",
                        case.__name__,
                        str(root),
                    ]
                    told = subprocess.run(command, capture_output=True, text=True, check=True)
                    print(
                        f"{data + ' ' + format(sizes[data], ','):>24} {case.__name__:>16} {told.stdout.strip()}",
                        flush=True,
                    )


def measure(case: str, root: Path) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    found = globals()[case](root)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    told = Path("/proc/self/status").read_text()  # `ru_maxrss` of a child begins at its parent's
    peak = int(told.partition("VmHWM:")[2].split()[0]) / 1024
    print(f"{found:>12,} {cpu:>8.2f} {wall:>8.2f} {peak:>8.0f}")
    sys.stdout.flush()
    os._exit(0)  # what is left is not part of it


if __name__ == "__main__":
    main()
