"""A selection made real: the bytes of every kept clip, in balanced shuffled shards of the format that is asked for.

    CURATED/README.md                           the card
    CURATED/data/train-00000-of-0000N.parquet   the clips (of the format parquet)
    CURATED/plots/*.png                         scores before and after
    CURATED/selection.json                      query, thresholds, funnel; written last: with it the dataset is done

Until then CURATED/.partial holds what the job needs: the plan (which clips in which order in which shard), and what was
cut ahead. In a local folder the finished shards wait there too; object storage cannot rename, so there they are put in
their place. Interrupted and started again with the same request, it is resumed after the whole shards and ends with the
same files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curate.base.files import commit, writing
from curate.base.store.places import Store, join, store_of
from curate.selection.selection import Selection, select
from pipelines.cluster import ExecutorError
from pipelines.curated.card.card import write_card
from pipelines.curated.cutting import CutterError
from pipelines.curated.job import Job
from pipelines.curated.request import (
    DONE,
    PARTIAL,
    REQUEST,
    CuratedError,
    CuratedRequest,
    State,
    Work,
    older_digest,
    state_of,
)
from pipelines.curated.scratch import scratch_folder
from pipelines.curated.shards import ShardCounts
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.empty import why_empty
from pipelines.dataset.lock import LEASE_NAME, held


@dataclass(frozen=True)
class Curated:
    """What came of it. out: the folder, or URL. failed: clip_id, video_path and reason of the clips that could not be cut.
    already: it was there."""

    out: Path | str
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


def make_curated(
    dataset: Dataset,
    request: CuratedRequest,
    out: str | os.PathLike[str],
    work: Work = Work(),  # noqa: B008  frozen
    why_null: Mapping[str, str] | None = None,
) -> Curated:
    """Select, cut and write. The same dataset and request give the same files, however and wherever the work is done.

    out: a folder, or the URL of one. why_null: see `select`. Raises CuratedError, SelectionError, StoreError.
    """
    store = store_of(out)
    selection = select(dataset.labelled_sql, request.filters, why_null=why_null or why_empty(dataset.config))
    if not selection.kept:
        raise CuratedError(
            f"{out}: the selection keeps none of {selection.clips} clips: {_worst(selection)}; loosen it"
        )
    _check(dataset, request, store, work)
    recorded = request.to_dict(dataset)
    older = older_digest(dataset)
    if state_of(out, recorded, older) is State.DONE:
        return _read(store, selection)
    with held(store_of(join(store.url, PARTIAL)), "curated dataset", CuratedError, waiting=work.note) as lock:
        state = state_of(out, recorded, older)  # by the time it is ours
        if state is State.NEW:
            store.replace(f"{PARTIAL}/{REQUEST}", _json(recorded))
        if state is not State.DONE:
            with scratch_folder(store_of(join(store.url, PARTIAL))) as scratch:
                _make(Job(dataset, selection, request, store, work, scratch, lock), recorded)
    if store.folder is None:  # the lease that was given back: nothing else is left there
        store.delete(f"{PARTIAL}/{LEASE_NAME}")
    return _read(store, selection, already=state is State.DONE)


def _make(job: Job, recorded: dict[str, Any]) -> None:
    out, kept = job.store, job.selection.kept
    try:
        counts = job.run()
    except (CutterError, ExecutorError) as error:
        raise CuratedError(f"{out}: not finished: {error}; then the same command resumes it") from None
    if not counts.clips:
        raise CuratedError(f"{out}: not one of {kept} clips could be cut: {counts.failed[0]['reason']}")
    job.lock.check()
    _finish(job, recorded, counts)


def _check(dataset: Dataset, request: CuratedRequest, store: Store, work: Work) -> None:
    missing = [name for name in request.format.needs if name not in dataset.schema("clips").names]
    if missing:
        raise CuratedError(
            f"{store}: export.format {request.format.name} needs {', '.join(missing)}, which the dataset does not have: "
            "annotate with the stage that fills it, or choose another format"
        )
    if work.cluster and not store.shared:
        raise CuratedError(f"{store}: is in the memory of this process: use --executor inline, or another --out")


def _finish(job: Job, request: dict[str, Any], counts: ShardCounts) -> None:
    dataset, store = job.dataset, job.store
    about = {
        "winnow": version("winnow"),
        "dataset": {"path": dataset.place, "config": dataset.config, "models": dataset.models},
        "request": request,
        **job.selection.to_dict(),
        "curated": asdict(counts) | {"why_transcoded": dict(sorted(counts.why_transcoded.items()))},
    }
    folder = store.folder or job.scratch / "card"
    folder.mkdir(exist_ok=True)
    write_card(folder, dataset, job.selection, about, job.request.format, job.schema)
    if store.folder is None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            store.replace(path.relative_to(folder).as_posix(), path.read_bytes())
    job.shards.clear()
    if job.shards.folder != job.DATA:
        with writing(store.folder):
            commit(store.folder / job.shards.folder, store.folder / job.DATA)
    store.replace(DONE, _json(about))
    job.discard()


def _read(store: Store, selection: Selection, already: bool = True) -> Curated:
    facts = json.loads(store.read(DONE))["curated"]
    return Curated(out=store.folder or store.url, selection=selection, already=already, **facts)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _worst(selection: Selection) -> str:
    """The funnel in one line."""
    return "; ".join(f"after {step.name} {step.remaining} remain" for step in selection.steps)


__all__ = ["Curated", "CuratedError", "CuratedRequest", "Work", "make_curated"]
