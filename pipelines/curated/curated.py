"""A selection made real: the bytes of every kept clip, in balanced shuffled shards of the format that is asked for.

    CURATED/README.md                           the card
    CURATED/data/train-00000-of-0000N.parquet   the clips (of the format parquet)
    CURATED/plots/*.png                         scores before and after
    CURATED/selection.json                      query, thresholds, funnel; written last: with it the folder is done

Until then everything is under CURATED/.partial: the plan (which clips in which order in which shard) and the shards
that are done. Interrupted and started again with the same request, it is resumed after the last whole shard and ends
with the same files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from curate.base.files import commit, write_json, writing
from curate.selection.selection import Selection, select
from pipelines.curated.card import write_card
from pipelines.curated.cutting import CutterError
from pipelines.curated.exported import schema_of
from pipelines.curated.passes import CutAhead, CutProgress
from pipelines.curated.rechecking import Recheck
from pipelines.curated.request import PARTIAL, CuratedError, CuratedRequest, State, Work, state_of
from pipelines.curated.rows import IN_THE_VIDEO, PlannedClips, SourceRoots, write_rows
from pipelines.curated.shards import Cutting, ShardCounts, ShardSet, bounds_of, write_shards
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.empty import why_empty
from pipelines.dataset.lock import held


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


def make_curated(
    dataset: Dataset,
    request: CuratedRequest,
    out: str | Path,
    work: Work = Work(),  # noqa: B008  frozen
    why_null: Mapping[str, str] | None = None,
) -> Curated:
    """Select, cut and write. The same dataset and request give the same files, however the work is done.

    why_null: see `select`. Raises CuratedError, SelectionError.
    """
    out = Path(out)
    selection = select(dataset.labelled_sql, request.filters, why_null=why_null or why_empty(dataset.config))
    if not selection.kept:
        raise CuratedError(
            f"{out}: the selection keeps none of {selection.clips} clips: {_worst(selection)}; loosen it"
        )
    _check_columns(dataset, request, out)
    recorded = request.to_dict(dataset)
    if state_of(out, recorded) is State.DONE:
        return _read(out, selection)
    with held(out / PARTIAL, "curated dataset", CuratedError):
        state = state_of(out, recorded)  # by the time it is ours
        if state is State.DONE:
            return _read(out, selection)
        if state is State.NEW:
            write_json(out / PARTIAL / "request.json", recorded)
        try:
            shards, counts = _write(dataset, selection, request, out, work)
        except CutterError as error:
            raise CuratedError(f"{out}: not finished: {error}; then the same command resumes it") from None
        if not counts.clips:
            raise CuratedError(f"{out}: not one of {selection.kept} clips could be cut: {counts.failed[0]['reason']}")
        _finish(out, shards, dataset, selection, recorded, counts)
    return _read(out, selection, already=False)


def _check_columns(dataset: Dataset, request: CuratedRequest, out: Path) -> None:
    missing = [name for name in request.format.needs if name not in dataset.schema("clips").names]
    if missing:
        raise CuratedError(
            f"{out}: export.format {request.format.name} needs {', '.join(missing)}, which the dataset does not have: "
            "annotate with the stage that fills it, or choose another format"
        )


def _write(
    dataset: Dataset, selection: Selection, request: CuratedRequest, out: Path, work: Work
) -> tuple[ShardSet, ShardCounts]:
    """The shards, whatever was written of them before."""
    partial = out / PARTIAL
    with writing(out):
        (partial / "data").mkdir(exist_ok=True)
    drop = [name for name in IN_THE_VIDEO if name not in request.format.needs]
    rows, plan = partial / "rows.parquet", partial / "plan.json"
    with work.cutters() as cut:
        if not rows.exists():
            write_rows(dataset, selection, request.seed, drop, rows)
        clips = PlannedClips(rows, request.form | work.form, SourceRoots(request.roots), partial / "spool")
        ahead, sample = CutAhead(clips, cut, CutProgress(clips.count, work.progress)), []
        if not plan.exists():
            bounds, sample = bounds_of(clips, request.shard_bytes, cut, ahead)
            write_json(plan, {"bounds": bounds})
        shards = ShardSet(
            folder=out / "data" if (out / "data").exists() else partial / "data",
            footers=partial / "footers",
            format=request.format,
            schema=schema_of(dataset.schema("clips"), request.format, drop),
            bounds=json.loads(plan.read_text())["bounds"],
        )
        return shards, write_shards(shards, clips, Cutting(cut, sample), Recheck(selection.conditions()), ahead)


def _finish(
    out: Path, shards: ShardSet, dataset: Dataset, selection: Selection, request: dict, counts: ShardCounts
) -> None:
    about = {
        "winnow": version("winnow"),
        "dataset": {"path": str(dataset.root.absolute()), "config": dataset.config, "models": dataset.models},
        "request": request,
        **selection.to_dict(),
        "curated": asdict(counts) | {"why_transcoded": dict(sorted(counts.why_transcoded.items()))},
    }
    write_card(out, dataset, selection, about, shards.format, shards.schema)
    if shards.folder != out / "data":
        with writing(out):
            commit(shards.folder, out / "data")
    write_json(out / "selection.json", about)
    shutil.rmtree(out / PARTIAL, ignore_errors=True)


def _read(out: Path, selection: Selection, already: bool = True) -> Curated:
    facts = json.loads((out / "selection.json").read_text(encoding="utf-8"))["curated"]
    return Curated(out=out, selection=selection, already=already, **facts)


def _worst(selection: Selection) -> str:
    """The funnel in one line."""
    return "; ".join(f"after {step.name} {step.remaining} remain" for step in selection.steps)


__all__ = ["Curated", "CuratedError", "CuratedRequest", "Work", "make_curated"]
