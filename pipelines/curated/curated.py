"""A selection made real: the bytes of every kept clip, in balanced shuffled shards that `datasets.load_dataset` opens.

    CURATED/README.md                           the card
    CURATED/data/train-00000-of-0000N.parquet   the clips
    CURATED/plots/*.png                         scores before and after
    CURATED/selection.json                      query, thresholds, funnel; written last: with it the folder is done

Until then everything is under CURATED/.partial: the plan (which clips in which order in which shard) and the shards
that are done. Interrupted and started again with the same request, it goes on after the last whole shard and ends
with the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate.base.files import commit, write_json, writing
from curate.selection.filters import Filter
from curate.selection.selection import Selection, select
from pipelines.curated.card import write_card
from pipelines.curated.cutting import CutterError, Cutters, Job, MapFn, Result
from pipelines.curated.passes import Moved, Spool
from pipelines.curated.rows import HEAVY, write_rows
from pipelines.curated.shards import Made, Standing, job_of, read_schema, write_shards
from pipelines.dataset import labels
from pipelines.dataset.claims import claimed
from pipelines.dataset.dataset import Dataset

SAMPLE_CLIPS, SAMPLE_BYTES = 32, 64_000_000  # cut first, to learn how many bytes a clip takes
MODELS = (
    ("aesthetic_score", "appearance", "aesthetic"),
    ("technical_quality", "appearance", "quality"),
    ("nsfw_score", "appearance", "nsfw"),
    *((f"{what}_{key}", "captions", key.replace("merged", "merge")) for what in ("caption", "similarity")
      for key in ("frame", "video", "merged")),
)  # fmt: skip
CHILD_LIMITS = {"timeout": "timeout_seconds", "memory_gb": "memory_gb"}  # of Cutters: of a config's decode section


class CuratedError(Exception):
    """Curated shards that cannot be made. One line: the folder, the reason, the fix."""


@dataclass(frozen=True)
class Curated:
    """What came of it. failed: clip_id, video_path and reason of the clips that could not be cut. already: it was
    there."""

    out: Path
    selection: Selection
    clips: int
    hours: float
    bytes: int
    shards: int
    copied: int
    transcoded: int
    failed: list[dict[str, str]]
    why_transcoded: dict[str, int]
    trimmed: int = 0
    frames_scored: int = 0
    frames_lost: int = 0
    already: bool = False


Progress = Callable[[int, int, int], None]  # clips done, clips in all, clips failed


def make_curated(
    dataset: Dataset,
    filters: Sequence[Filter],
    out: str | Path,
    *,
    seed: int = 0,
    shard_bytes: int = 256_000_000,
    options: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
    why_null: Mapping[str, str] | None = None,
    workers: int | None = None,
    map_fn: MapFn | None = None,
    progress: Progress | None = None,
    source_roots: Mapping[str, str] | None = None,
) -> Curated:
    """Select, cut and write. The same dataset, filters, seed and options give the same files.

    seed: the order of the clips is that of md5("seed:clip_id"). shard_bytes: about what a shard takes. options: of
    `curate.export.extract.extract` (snap, size, fps, codec, crf, trim ...). limits: of a decode, as in the config: max_pixels of
    a picture, timeout_seconds for a clip, memory_gb of a process; they say what can be cut and not what comes of it, so
    another run may go on with other ones. workers: processes that cut. map_fn: in their place, anything that turns jobs
    into results in the same order. source_roots: old -> new beginning of the paths of sources that were moved since they
    were annotated. Raises CuratedError, SelectionError.
    """
    out = Path(out)
    selection = select(dataset.labelled_sql, filters, why_null=why_null or why_empty(dataset.config))
    if not selection.kept:
        raise CuratedError(
            f"{out}: the selection keeps none of {selection.clips} clips: {_worst(selection)}; loosen it"
        )
    request = {
        "filters": [f.to_dict() for f in filters],
        "seed": seed,
        "shard_bytes": shard_bytes,
        "options": {name: value for name, value in sorted((options or {}).items()) if value is not None},
        "dataset": _digest(dataset),
    }
    roots = {os.path.abspath(old): os.path.abspath(new) for old, new in (source_roots or {}).items()}
    if roots:
        request["source_roots"] = roots
    if any("label" in f.sql.lower() for f in filters):  # the same words keep other clips once more of them are labelled
        request["labels"] = labels.digest(dataset.root)
    if _state(out, request) == "done":
        return _read(out, selection)
    with claimed(out / ".partial", "curated dataset", CuratedError):
        state = _state(out, request)  # by the time it is ours
        if state == "done":
            return _read(out, selection)
        if state == "new":
            write_json(out / ".partial" / "request.json", request)
        try:
            data, made = _write(dataset, selection, out, request, limits or {}, workers, map_fn, progress)
        except CutterError as error:
            raise CuratedError(f"{out}: not finished: {error}; then the same command goes on from there") from None
        if not made.clips:
            raise CuratedError(f"{out}: not one of {selection.kept} clips could be cut: {made.failed[0]['reason']}")
        _finish(out, data, dataset, selection, request, made)
    return _read(out, selection, already=False)


def _write(
    dataset: Dataset,
    selection: Selection,
    out: Path,
    request: Mapping[str, Any],
    limits: Mapping[str, Any],
    workers: int | None,
    map_fn: MapFn | None,
    progress: Progress | None,
) -> tuple[Path, Made]:
    """The shards, whatever was written of them before; and the folder they are in."""
    partial = out / ".partial"
    with writing(out):
        (partial / "data").mkdir(exist_ok=True)
    limits = {name: value for name, value in limits.items() if value is not None}
    options = request["options"] | ({"max_pixels": limits["max_pixels"]} if "max_pixels" in limits else {})
    child = {name: limits[key] for name, key in CHILD_LIMITS.items() if key in limits}
    moved = Moved(request.get("source_roots", {}))
    with ExitStack() as stack:
        cut = map_fn or stack.enter_context(Cutters(workers, **child))
        rows = partial / "rows.parquet"
        if not rows.exists():
            write_rows(dataset, selection, request["seed"], rows)
        cutters = cut if isinstance(cut, Cutters) else None
        spool = Spool(rows, partial / "spool", cutters, options, moved, progress)
        plan_path, sample = partial / "plan.json", []
        if not plan_path.exists():
            bounds, sample = _plan(rows, request["shard_bytes"], cut, options, moved, spool)
            write_json(plan_path, {"bounds": bounds})
        plan = json.loads(plan_path.read_text())
        data = out / "data" if (out / "data").exists() else partial / "data"
        columns = read_schema(dataset.schema("clips"), drop=HEAVY)
        standing = Standing(selection.conditions())
        bounds, in_order = plan["bounds"], _after(sample, cut)
        return data, write_shards(data, rows, columns, bounds, in_order, cut, options, standing, moved, spool)


def why_empty(config: Mapping[str, Any]) -> dict[str, str]:
    """Column -> why no clip has it, for the columns whose model a config leaves out."""
    pack = f"pack {config.get('pack', 'unnamed')}"
    missing = {}
    for column, section, key in MODELS:
        if section in config and (config[section] or {}).get(key) is None:
            missing[column] = f"no model for it ran: {pack}; annotate with a config that has {section}.{key}"
    if "embedder" in config and config["embedder"] is None:
        embedded = ["image_embedding", *(column for column, _, _ in MODELS if column.startswith("similarity_"))]
        missing |= dict.fromkeys(embedded, f"no model for it ran: {pack}; annotate with a config that has an embedder")
    return missing


def _finish(out: Path, data: Path, dataset: Dataset, selection: Selection, request: dict, made: Any) -> None:
    schema = pq.read_schema(next(iter(sorted(data.glob("*.parquet")))))
    about = {
        "winnow": version("winnow"),
        "dataset": {"path": str(dataset.root.absolute()), "config": dataset.config, "models": dataset.models},
        "request": request,
        **selection.to_dict(),
        "curated": {
            "clips": made.clips,
            "hours": made.hours,
            "bytes": made.bytes,
            "shards": made.shards,
            "copied": made.copied,
            "transcoded": made.transcoded,
            "why_transcoded": dict(sorted(made.why_transcoded.items())),
            "trimmed": made.trimmed,
            "frames_scored": made.frames_scored,
            "frames_lost": made.frames_lost,
            "failed": made.failed,
        },
    }
    write_card(out, dataset, selection, about, schema)
    if data != out / "data":
        with writing(out):
            commit(data, out / "data")
    write_json(out / "selection.json", about)
    shutil.rmtree(out / ".partial", ignore_errors=True)


def _read(out: Path, selection: Selection, already: bool = True) -> Curated:
    facts = json.loads((out / "selection.json").read_text(encoding="utf-8"))["curated"]
    return Curated(out=out, selection=selection, already=already, **facts)


def _state(out: Path, request: dict[str, Any]) -> str:
    """ "new", "started" or "done"; CuratedError where the folder holds something else."""
    if out.exists() and not out.is_dir():
        raise CuratedError(f"{out}: is a file; choose another --out")
    for name, state in (("selection.json", "done"), (".partial/request.json", "started")):
        path = out / name
        if not path.exists():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found = found["request"] if state == "done" else found
        except (ValueError, KeyError, OSError) as error:
            raise CuratedError(f"{path}: cannot be read ({error}); delete {out} or choose another --out") from None
        keys = [*request, "source_roots"] if "dataset" in request else request
        other = [key for key in keys if found.get(key) != request.get(key)]
        if not other:
            return state
        what = "another selection" if state == "done" else "another selection, not finished"
        names = {
            "dataset": "the dataset has changed since",
            "shard_bytes": "shard size",
            "labels": "clips were labelled since",
            "source_roots": "where the sources lie",
        }
        differs = ", ".join(names.get(key, key) for key in other)
        raise CuratedError(f"{out}: holds {what} (different: {differs}); choose another --out or delete it")
    if out.exists() and any(path.name != ".partial" for path in out.iterdir()):
        raise CuratedError(f"{out}: is not empty and not a curated dataset; choose another --out")
    return "new"


def _plan(
    rows: Path, shard_bytes: int, cut: MapFn, options: dict[str, Any], moved: Moved, spool: Spool
) -> tuple[list[int], list[Result]]:
    """How many shards, and which rows go in each: contiguous in the shuffled order, of about equal weight.

    The first clips of the order are a random sample: cutting them tells how many bytes a unit of weight takes. What was
    cut is returned too, so that it need not be cut again.
    """
    weights = pq.read_table(rows, columns=["_weight"])["_weight"].to_numpy()
    sample = pq.ParquetFile(rows).iter_batches(batch_size=SAMPLE_CLIPS)
    jobs = [job_of(moved.row(row), options, spool.folder) for row in next(sample).to_pylist()]
    spool.fill(len(jobs))
    taken = weight = 0.0
    results: list[Result] = []
    for job_weight, result in zip(weights, cut(jobs), strict=False):
        results.append(result)
        if not isinstance(result, str):
            taken, weight = taken + len(result.bytes), weight + job_weight
        if taken > SAMPLE_BYTES:
            break
    total = weights.sum() * (taken / weight if weight else 1.0)
    shards = int(min(max(1, round(total / shard_bytes)), len(weights)))
    ends = np.searchsorted(np.cumsum(weights), weights.sum() * np.arange(1, shards) / shards, side="left") + 1
    bounds = np.unique([0, *ends, len(weights)]).tolist()
    return bounds, results


def _after(results: list[Result], cut: MapFn) -> MapFn:
    """`cut`, for jobs of which the results of the first are there already."""

    def mapped(jobs: Iterable[Job]) -> Iterator[Result]:
        jobs = iter(jobs)
        while results and next(jobs, None):
            yield results.pop(0)
        yield from cut(jobs)

    return mapped


def _worst(selection: Selection) -> str:
    """The funnel in one line."""
    return "; ".join(f"after {step.name} {step.remaining} remain" for step in selection.steps)


def _digest(dataset: Dataset) -> str:
    """Of what decides its rows: the contents and stages that shards are named by, and how the stages were run."""
    rows = [path.name for path in dataset.files("clips")]
    made = {key: dataset.about.get(key) for key in ("stages", "models", "winnow")}
    return hashlib.sha256(json.dumps([rows, made], sort_keys=True).encode()).hexdigest()[:16]


__all__ = ["Curated", "CuratedError", "make_curated", "why_empty"]
