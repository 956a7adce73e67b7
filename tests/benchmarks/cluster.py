"""Planning, restart, workers, overhead, and requests to object storage: `python -m tests.benchmarks.cluster [TABLE...] [--full]`.

All through `winnow annotate` and `winnow select` in processes of their own, on footage made by code. CPU seconds are of the
process and of all that it started. The code before is that of commit BEFORE, in a worktree that is made for the measurement
and removed after it, in the same run. --full: at the sizes of the tables of the changelog.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.footage import pan
from video_model.pictures import write_frames

ROOT = Path(__file__).parent.parent.parent
BEFORE = "90fbfde"  # one driver opens and fingerprints every file
PLANNING = """
import sys, time
from pipelines.annotation.annotate import annotate
from pipelines.annotation.pools import Place
from pipelines.config import load
class Planned(Exception): ...
class Watcher:
    def planning(self, done, total): ...
    def start(self, units, seconds, already): raise Planned
try:
    annotate([sys.argv[1]], sys.argv[2], load("quickstart"), place=Place("inline"), watcher=Watcher(), stages=["shots"])
except Planned:
    pass
"""
DECODING = """
import sys, time
from dataclasses import replace
from curate.video.units import plan
from pipelines.annotation.stages import build, with_needs
from pipelines.annotation.executor import limit_threads
from pipelines.config import load
from pipelines.sources.sources import find_videos
config = load("quickstart", ["decode.isolate=false"])
steps = build(config, with_needs(["motion", "stills"], config))
limit_threads(1)
units = [unit for video in find_videos([sys.argv[1]]).videos for unit in plan(replace(video, video_id="0" * 32))]
began = time.process_time()
for unit in units:
    for step in steps:
        step([unit])
print(time.process_time() - began)
"""


def winnow(
    *arguments: Any, environment: dict[str, str] | None = None, codes: Sequence[int] = (0,)
) -> tuple[float, float]:
    """(wall s, CPU s) of `winnow ARGUMENTS`."""
    return python("-m", "pipelines.cli", *arguments, environment=environment, codes=codes)[:2]


def python(
    *arguments: Any, tree: Path = ROOT, environment: dict[str, str] | None = None, codes: Sequence[int] = (0,)
) -> tuple[float, float, str]:
    """(wall s, CPU s, standard output) of this Python in a tree of the code."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=tree,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        capture_output=True,
        text=True,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(map(str, arguments[:6]))} ended with {done.returncode}: {done.stderr[-500:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def small_files(folder: Path, count: int, decodable: bool = True) -> None:
    """Files of one content each: an mp4 of ten frames and a box that no player looks at, with a number in it."""
    data = b"0" * 100
    if decodable:
        write_frames(folder / "one.mp4", pan(10, 2, 0, 64, 64), 25)
        data = (folder / "one.mp4").read_bytes()
        (folder / "one.mp4").unlink()
    for number in range(count):
        path = folder / f"{number // 1000:03}" / f"{number:06}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data + struct.pack(">I4s8s", 16, b"free", f"{number:08}".encode()))


@contextlib.contextmanager
def code_before() -> Iterator[Path]:
    """A worktree of the commit."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "before"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", tree, BEFORE], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def planning(scratch: Path, full: bool) -> Table:
    """Planning of small files, against the code before."""
    count = 20_000 if full else 3_000
    small_files(scratch / "files", count)
    table = Table(title=f"planning {count} small files", title_justify="left")
    for name in ("code", "wall s per 1,000", "CPU s per 1,000"):
        table.add_column(name, justify="left" if name == "code" else "right")
    with code_before() as tree:
        for name, code, where in ((BEFORE, PLANNING, tree), ("now", PLANNING, ROOT)):
            idle = python("-c", code, scratch / "none", scratch / f"none {name}", tree=where, codes=(0, 1))
            wall, cpu, _ = python("-c", code, scratch / "files", scratch / name, tree=where)
            table.add_row(name, f"{(wall - idle[0]) / count * 1000:.2f}", f"{(cpu - idle[1]) / count * 1000:.2f}")
    return table


def restart(scratch: Path, full: bool) -> Table:
    """The same command on a dataset in which all is done."""
    from curate.base.store import store_of
    from curate.clip import Clip, Unit, Video
    from curate.parts import Parts
    from curate.video.identity import stamp
    from pipelines.annotation.stages import tables_of
    from pipelines.dataset.dataset import read_about
    from pipelines.dataset.shards.writing import write_shard

    count, each = (100_000 if full else 10_000), 500
    out, files = scratch / "data", scratch / "files"
    write_frames(files / "first.mp4", pan(10, 2, 0, 64, 64), 25)
    command = ("annotate", files, "--out", out, "--stages", "motion", "--executor", "inline")
    winnow(*command)
    small_files(files, count, decodable=False)
    store, tables = store_of(str(out)), tables_of(Parts())
    about = read_about(out)
    paths = sorted(files.glob("*/*.mp4"))
    for start in range(0, count, each):
        units = []
        for number, path in enumerate(paths[start : start + each], start):
            clip = Clip(0, 10, 0.0, 0.4, 0.0, 0.4, values={"motion_score": float(number % 97)})
            facts = {"duration": 0.4, "footage": 0.4, **stamp(str(path))}
            units.append(Unit(Video(str(path), f"{number:032x}"), facts=facts, clips=[clip]))
        write_shard(store, tables, units, stages=list(about["stages"]), models=about["models"])
    table = Table(title=f"the same command on a finished dataset of {count} units", title_justify="left")
    for name in ("start", "wall s", "CPU s"):
        table.add_column(name, justify="left" if name == "start" else "right")
    for name in ("without a manifest of them", "again"):
        wall, cpu = winnow(*command)
        table.add_row(name, f"{wall:.1f}", f"{cpu:.1f}")
    return table


def workers(scratch: Path, full: bool) -> Table:
    """Two workers over one, on the decode stages."""
    films(scratch / "films", 24 if full else 8, 400)
    films(scratch / "few", 1, 10)
    table = Table(title="workers on the decode stages (Ray; its start taken off)", title_justify="left")
    for name in ("workers", "wall s", "times one"):
        table.add_column(name, justify="right")
    took: dict[int, float] = {}
    for count in (1, 2):
        how = ("--stages", "motion,stills", "--executor", "ray", "--workers", count)
        start = winnow("annotate", scratch / "few", "--out", scratch / f"few {count}", *how)[0]
        took[count] = winnow("annotate", scratch / "films", "--out", scratch / f"data {count}", *how)[0] - start
        table.add_row(str(count), f"{took[count]:.1f}", f"{took[1] / took[count]:.2f}")
    return table


def overhead(scratch: Path, full: bool) -> Table:
    """CPU of a whole run over that of its stages alone."""
    count = 16 if full else 6
    films(scratch / "films", count, 400)
    films(scratch / "few", 1, 10)
    alone = float(python("-c", DECODING, scratch / "films")[2])
    alone -= float(python("-c", DECODING, scratch / "few")[2])
    table = Table(title="CPU of isolation and commit, over decoding in one process", title_justify="left")
    for name in ("what", "CPU s", "more"):
        table.add_column(name, justify="left" if name == "what" else "right")
    table.add_row("decode, shots, motion, stills; nothing else", f"{alone:.1f}", "")
    for name, isolate in (("inline, committed", "false"), ("in a child process, committed", "true")):
        how = ("--stages", "motion,stills", "--executor", "inline", "--set", f"decode.isolate={isolate}")
        fixed = winnow("annotate", scratch / "few", "--out", scratch / f"few {isolate}", *how)[1]
        cpu = winnow("annotate", scratch / "films", "--out", scratch / f"data {isolate}", *how)[1] - fixed
        table.add_row(name, f"{cpu:.1f}", f"{cpu / alone - 1:+.1%}")
    return table


def storage(scratch: Path, full: bool) -> Table:
    """Requests and bytes of an S3 server: of annotating, of starting again, and of cutting."""
    from curate.base.store import store_of
    from tests.object_storage import Storage

    films(scratch / "films", 6 if full else 3, 1500, size=(720, 1280))
    table = Table(title="S3 requests and bytes", title_justify="left")
    for name in ("command", "GET", "HEAD", "LIST", "PUT", "MB of sources read", "over the files' size"):
        table.add_column(name, justify="left" if name == "command" else "right")
    with Storage() as server:
        os.environ.update(server.environment)
        bucket = server.bucket()
        store = store_of(f"{bucket}/films")
        size = sum(path.stat().st_size for path in (scratch / "films").iterdir())
        for path in sorted((scratch / "films").iterdir()):
            store.put(path.name, path.read_bytes())
        how = ("--stages", "motion,stills", "--executor", "inline")
        annotate = ("annotate", f"{bucket}/films", "--out", f"{bucket}/data", *how)
        cut = ("select", f"{bucket}/data", "--out", f"{bucket}/curated", "--where", "true")
        for name, command in (("annotate", annotate), ("annotate again", annotate), ("select", cut)):
            server.reset()
            winnow(*command, environment=server.environment)
            found = server.counts()
            read = sum(sent for key, (_, sent) in found["by_key"].items() if "/films/" in key)
            counts = (str(found["by_method"].get(method, 0)) for method in ("GET", "HEAD", "LIST", "PUT"))
            table.add_row(name, *counts, f"{read / 1e6:.1f}", f"{read / size:.2f}")
    table.caption = f"{len(list((scratch / 'films').iterdir()))} files of {size / 1e6:.0f} MB together, all clips cut"
    return table


def films(folder: Path, count: int, frames: int, size: tuple[int, int] = (360, 640)) -> None:
    for number in range(count):
        half = frames // 2
        pictures = [*pan(half, 2, number, *size), *pan(frames - half, 4, 100 + number, *size)]
        write_frames(folder / f"film {number:02}.mp4", pictures, 25, preset="veryfast", g="50")


TABLES: dict[str, Callable[[Path, bool], Table]] = {
    function.__name__: function for function in (planning, restart, workers, overhead, storage)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="all, if none is named")
    parser.add_argument("--full", action="store_true", help="at full size: tens of minutes")
    options = parser.parse_args()
    for name in options.tables or TABLES:
        with tempfile.TemporaryDirectory(prefix="winnow-") as scratch:
            Console(width=110).print(TABLES[name](Path(scratch), options.full))


if __name__ == "__main__":
    main()
