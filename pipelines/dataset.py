"""The annotated dataset on disk: its two tables, how a shard is committed, and what is read back to go on.

    DATASET/dataset.json                 format, version, resolved config, models by stage
    DATASET/clips/part-<hash>.parquet    a row per clip
    DATASET/videos/part-<hash>.parquet   a row per unit; the footer names the units: this file is the record of what is done

A shard is written aside, flushed to the disk and renamed, clips first. A clips file whose videos file is not there was never
committed. A unit that is worked on again (more stages, or another try) gets a higher `generation`; the highest one counts,
and a shard in which nothing counts any more is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.clip import Clip, Column, Unit, Video, path_to_text, text_to_path
from pipelines.files import FOOTER, commit, write_json, write_parquet
from pipelines.labels import labelled

__all__ = [
    "FORMAT", "Dataset", "DatasetError", "Shard", "Tables", "Writer", "commit", "read_about", "read_shards", "read_unit",
    "sweep", "write_json",
]  # fmt: skip

FORMAT = 1

CLIP_IDENTITY = (
    Column("clip_id", pa.string(), "video id and first frame"),
    Column("video_id", pa.string(), "hash of the file's content"),
    Column("video_path", pa.string(), "absolute path of the source"),
    Column("unit", pa.int32(), "which stretch of the video"),
    Column("start_time", pa.float64(), "presentation time of the first frame", "s"),
    Column("end_time", pa.float64(), "end of the last frame", "s"),
    Column("start_frame", pa.int64(), "first frame, in presentation order"),
    Column("end_frame", pa.int64(), "end of the frames, exclusive"),
    Column("num_frames", pa.int64(), "end_frame - start_frame"),
    Column(
        "fps", pa.float64(), "average frame rate of the clip, by its frames' times; the video's where they agree", "1/s"
    ),
    Column("width", pa.int32(), "as displayed", "px"),
    Column("height", pa.int32(), "as displayed", "px"),
    Column("clock", pa.string(), "how its frames are found again in the source", range="file, counted"),
    Column("shot_start_time", pa.float64(), "start of the shot that the clip lies in", "s"),
    Column("shot_end_time", pa.float64(), "end of the shot that the clip lies in", "s"),
)
OF_VIDEO = (  # facts of the video that are columns of its clips too, so that a selection can ask for them
    "codec", "pixel_format", "container", "bitrate", "rotation", "mirrored", "sample_aspect_ratio", "interlaced",
    "variable_frame_rate", "transfer", "primaries", "matrix", "range", "bit_depth", "hdr", "has_audio",
)  # fmt: skip
CLIP_TAIL = (
    Column("source_caption", pa.string(), "caption that the source list gave"),
    Column("source_columns", pa.string(), "every other column of the source list, as JSON"),
    Column("errors", pa.map_(pa.string(), pa.string()), "stage -> reason, for the stages that failed on this clip"),
)
VIDEO_IDENTITY = (
    Column("video_id", pa.string(), "hash of the file's content; of its path, if it could not be read"),
    Column("video_path", pa.string(), "absolute path of the source"),
    Column("unit", pa.int32(), "which stretch of the video"),
    Column("units", pa.int32(), "how many stretches the video has"),
    Column("unit_start", pa.float64(), "start of the stretch; null: of the file", "s"),
    Column("unit_end", pa.float64(), "end of the stretch; null: of the file", "s"),
    Column("status", pa.string(), "ok, failed, lost (by a machine: tried again) or duplicate"),
    Column("error", pa.string(), "why it failed or was lost, or of which file it is a duplicate"),
    Column("warnings", pa.list_(pa.string()), "what was wrong although the unit could be used"),
    Column("clips", pa.int32(), "clips found"),
    Column("seconds", pa.map_(pa.string(), pa.float64()), "wall time by stage", "s"),
    Column("source_caption", pa.string(), "caption that the source list gave"),
    Column("source_columns", pa.string(), "every other column of the source list, as JSON"),
)


class DatasetError(Exception):
    """One line: the folder, what is wrong with it, and the mend."""


@dataclass(frozen=True)
class Tables:
    """The columns of the two tables, whichever stages ran: the score columns by stage, and the facts of a video."""

    scores: Sequence[Column]
    facts: Sequence[Column]

    @property
    def clip_columns(self) -> tuple[Column, ...]:
        return (*CLIP_IDENTITY, *(fact for fact in self.facts if fact.name in OF_VIDEO), *self.scores, *CLIP_TAIL)

    @property
    def clips(self) -> pa.Schema:
        return pa.schema([column.field() for column in self.clip_columns])

    @property
    def videos(self) -> pa.Schema:
        return pa.schema([column.field() for column in (*VIDEO_IDENTITY, *self.facts)])

    def clip_row(self, unit: Unit, clip: Clip) -> dict[str, Any]:
        row = {column.name: clip.values.get(column.name) for column in self.scores}
        return (
            row
            | {name: unit.facts.get(name) for name in OF_VIDEO}
            | {
                "clip_id": unit.clip_id(clip),
                "video_id": unit.video.video_id,
                "video_path": path_to_text(unit.video.path),
                "unit": unit.index,
                "start_time": clip.start_time,
                "end_time": clip.end_time,
                "start_frame": clip.start_frame,
                "end_frame": clip.end_frame,
                "num_frames": clip.num_frames,
                "fps": clip.fps,
                "width": clip.width,
                "height": clip.height,
                "clock": clip.clock,
                "shot_start_time": clip.shot_start_time,
                "shot_end_time": clip.shot_end_time,
                "source_caption": unit.video.caption,
                "source_columns": _json(unit.video.columns),
                "errors": sorted(clip.errors.items()),
            }
        )

    def video_row(self, unit: Unit) -> dict[str, Any]:
        row = {column.name: unit.facts.get(column.name) for column in self.facts}
        return row | {
            "video_id": unit.video.video_id,
            "video_path": path_to_text(unit.video.path),
            "unit": unit.index,
            "units": unit.count,
            "unit_start": unit.start,
            "unit_end": unit.end,
            "status": unit.status,
            "error": unit.error,
            "warnings": unit.warnings,
            "clips": len(unit.clips),
            "seconds": sorted(unit.seconds.items()),
            "source_caption": unit.video.caption,
            "source_columns": _json(unit.video.columns),
        }

    def unit_of(self, video: dict[str, Any], clips: Iterable[dict[str, Any]]) -> Unit:
        """The inverse of the two above: a stored unit, ready for more stages."""
        return Unit(
            video=Video(
                path=text_to_path(video["video_path"]),
                video_id=video["video_id"],
                caption=video["source_caption"],
                columns=json.loads(video["source_columns"]) if video["source_columns"] else {},
            ),
            index=video["unit"],
            count=video["units"],
            start=video["unit_start"],
            end=video["unit_end"],
            status=video["status"],
            error=video["error"],
            warnings=list(video["warnings"] or ()),
            facts={column.name: video.get(column.name) for column in self.facts},
            seconds=dict(video["seconds"] or ()),
            clips=[
                Clip(
                    start_frame=row["start_frame"],
                    end_frame=row["end_frame"],
                    start_time=row["start_time"],
                    end_time=row["end_time"],
                    shot_start_time=row["shot_start_time"],
                    shot_end_time=row["shot_end_time"],
                    values={column.name: row.get(column.name) for column in self.scores},
                    errors=dict(row["errors"] or ()),
                    **{name: row.get(name) for name in ("fps", "width", "height", "clock")},
                )
                for row in clips
            ],
        )


@dataclass(frozen=True)
class Shard:
    """A committed shard: its name, the units that its footer names, and the stages that ran on them.

    replaces: units of lower generations that do not count any more although no unit here has their id (a file that failed
    is known by its path, and once it can be read by its content).
    """

    name: str
    units: tuple[str, ...]
    stages: tuple[str, ...]
    generation: int
    replaces: tuple[str, ...] = ()


class Dataset:
    """An annotated dataset, for reading. `clips_sql` and `videos_sql` are DuckDB relations of the rows that count."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.about = read_about(self.root)
        self.shards = read_shards(self.root)
        newest: dict[str, Shard] = {}
        for shard in self.shards:
            for unit in shard.units:
                if unit not in newest or _rank(shard) > _rank(newest[unit]):
                    newest[unit] = shard
        for shard in self.shards:
            for unit in shard.replaces:
                if unit in newest and newest[unit].generation < shard.generation:
                    del newest[unit]
        self.newest = newest

    @property
    def config(self) -> dict[str, Any]:
        return self.about["config"]

    @property
    def models(self) -> dict[str, Any]:
        return self.about.get("models", {})

    def files(self, table: str) -> list[Path]:
        live = {shard.name for shard in self.newest.values()}
        return [self.root / table / f"part-{name}.parquet" for name in sorted(live)]

    def _stale(self) -> dict[str, list[str]]:
        """Shards of which some rows still count, to their units that a later generation replaced."""
        stale: dict[str, list[str]] = {}
        live = {shard.name for shard in self.newest.values()}
        for shard in self.shards:
            gone = [unit for unit in shard.units if self._owner(unit) != shard.name]
            if gone and shard.name in live:
                stale[shard.name] = gone
        return stale

    def _owner(self, unit: str) -> str | None:
        return self.newest[unit].name if unit in self.newest else None

    def _sql(self, table: str, places: bool = False) -> str:
        """Whole shards as they are; of the others what no stale unit owns. Stale units are one text, as the parser takes
        seconds for a list of thousands of literals."""
        files = self.files(table)
        if not files:
            raise DatasetError(f"{self.root}: the dataset has no committed shard yet: run `winnow annotate` on it")
        stale = self._stale()
        mixed = {path for path in files if path.stem.removeprefix("part-") in stale}
        options, hidden = (", filename=true, file_row_number=true", "") if places else ("", "EXCLUDE (filename)")
        named = ", union_by_name=true"  # shards of an older version lack columns
        parts = []
        if whole := [path for path in files if path not in mixed]:
            parts.append(f"SELECT * FROM read_parquet({_listed(whole)}{options}{named})")
        if mixed:
            gone = " ".join(f"part-{shard}/{unit}" for shard, units in stale.items() for unit in units)
            parts.append(
                f"SELECT * {hidden} FROM read_parquet({_listed(sorted(mixed))}{options or ', filename=true'}{named}) WHERE "
                "printf('%s/%s-%04d', parse_filename(filename, true), video_id, unit) "
                f"NOT IN (SELECT unnest(string_split({_quote(gone)}, ' ')))"
            )
        return f"({' UNION ALL BY NAME '.join(parts)})"

    def placed_sql(self, table: str) -> str:
        """A relation as `clips_sql` or `videos_sql`, with the columns filename and file_row_number: where a row lies."""
        return self._sql(table, places=True)

    @property
    def clips_sql(self) -> str:
        return self._sql("clips")

    @property
    def labelled_sql(self) -> str:
        """`clips_sql` with the columns label and label_note: what a person said in the inspector, null where nothing."""
        return labelled(self.clips_sql, self.root)

    @property
    def videos_sql(self) -> str:
        return self._sql("videos")


def read_unit(root: Path, shard: str, unit: Unit, tables: Tables) -> Unit:
    """The stored rows of one unit of a shard, ready for more stages. Rows lie in the order of their units, so that the
    statistics of the small row groups leave one or two to read."""
    (video,) = _rows_of(root / "videos" / f"part-{shard}.parquet", unit, tables.videos.names)
    return tables.unit_of(video, _rows_of(root / "clips" / f"part-{shard}.parquet", unit, tables.clips.names))


def _rows_of(path: Path, unit: Unit, columns: list[str]) -> list[dict[str, Any]]:
    wanted = [("video_id", "=", unit.video.video_id), ("unit", "=", unit.index)]
    there = pq.read_schema(path).names  # a shard of an older Winnow has fewer
    columns = [name for name in columns if name in there]
    return pq.read_table(path, columns=columns, filters=wanted, use_threads=False).to_pylist()


class Writer:
    """Collects finished units and commits them as shards. What is not committed when the process dies is done again.

    A shard is committed at `shard_clips` clips, at 256 MB of stills, or `shard_seconds` after its first unit.
    """

    MAX_BYTES = 256 << 20

    def __init__(
        self,
        root: Path,
        tables: Tables,
        *,
        models: dict[str, Any],
        shard_clips: int = 1000,
        shard_seconds: float = 30.0,
    ) -> None:
        self.root, self.tables, self.models = Path(root), tables, models
        self.shard_clips, self.shard_seconds = shard_clips, shard_seconds
        self._pending: dict[tuple[tuple[str, ...], int], list[Unit]] = {}
        self._replaced: dict[str, int] = {}
        self._since, self._clips, self._bytes = 0.0, 0, 0
        for table in ("clips", "videos"):
            (self.root / table).mkdir(parents=True, exist_ok=True)
        sweep(self.root)

    def add(self, unit: Unit, *, stages: Sequence[str], generation: int = 0, replaces: Sequence[str] = ()) -> None:
        if not self._pending:
            self._since = time.monotonic()
        self._pending.setdefault((tuple(stages), generation), []).append(unit)
        self._replaced.update(dict.fromkeys(replaces, generation))
        self._clips += len(unit.clips)
        self._bytes += sum(len(still) for clip in unit.clips for still in clip.stills())
        old = time.monotonic() - self._since > self.shard_seconds
        if self._clips >= self.shard_clips or self._bytes >= self.MAX_BYTES or old:
            self.flush()

    def flush(self) -> None:
        for (stages, generation), units in self._pending.items():
            self._commit(units, stages, generation)
        self._pending, self._replaced, self._clips, self._bytes = {}, {}, 0, 0

    def _commit(self, units: list[Unit], stages: tuple[str, ...], generation: int) -> None:
        units = sorted(units, key=lambda unit: unit.id)
        ids = [unit.id for unit in units]
        gone = sorted(unit for unit, by in self._replaced.items() if by == generation)
        footer = {"units": ids, "stages": stages, "generation": generation, "replaces": gone, "models": self.models}
        name = hashlib.sha256(json.dumps([ids, stages, generation]).encode()).hexdigest()[:16]
        clips = [self.tables.clip_row(unit, clip) for unit in units for clip in unit.clips]
        write_parquet(self.root / "clips" / f"part-{name}.parquet", self.tables.clips, clips, footer)
        videos = [self.tables.video_row(unit) for unit in units]
        write_parquet(self.root / "videos" / f"part-{name}.parquet", self.tables.videos, videos, footer)


def read_about(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"{root}: not a Winnow dataset (no dataset.json): make one with `winnow annotate SOURCE --out {root}`"
        ) from None
    except (ValueError, OSError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}): restore it, or annotate into another folder") from None
    if about.get("format") != FORMAT:
        raise DatasetError(
            f"{path}: format {about.get('format')}, this Winnow reads {FORMAT}: annotate again, or use that version"
        )
    return about


def read_shards(root: Path) -> list[Shard]:
    shards = []
    for path in sorted((root / "videos").glob("part-*.parquet")):
        try:
            footer = json.loads(pq.read_schema(path).metadata[FOOTER])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{path}: damaged shard ({type(error).__name__}): delete it and its twin in clips/, then annotate again to remake its rows"
            ) from None
        if not (root / "clips" / path.name).exists():
            raise DatasetError(
                f"{path}: its twin in clips/ is missing: delete it, then annotate again to remake its rows"
            )
        name = path.stem.removeprefix("part-")
        listed = (tuple(footer[key]) for key in ("units", "stages"))
        shards.append(Shard(name, *listed, footer["generation"], tuple(footer["replaces"])))
    return shards


def sweep(root: Path) -> None:
    """Remove what no reader counts: files never finished, clips never committed, shards that later ones replaced.

    Called by the one process that writes. The videos file goes first: from then on the shard is not a record any more.
    """
    for table in ("clips", "videos"):
        for path in (root / table).glob(".part-*.tmp"):
            path.unlink(missing_ok=True)
    if (root / "dataset.json").exists():
        dataset = Dataset(root)
        live = {shard.name for shard in dataset.newest.values()}
        for shard in dataset.shards:
            if shard.name not in live:
                (root / "videos" / f"part-{shard.name}.parquet").unlink(missing_ok=True)
    committed = {path.name for path in (root / "videos").glob("part-*.parquet")}
    for path in (root / "clips").glob("part-*.parquet"):
        if path.name not in committed:
            path.unlink(missing_ok=True)


def _rank(shard: Shard) -> tuple[int, int, str]:
    return shard.generation, len(shard.stages), shard.name


def _json(columns: dict[str, Any]) -> str | None:
    return json.dumps(columns, ensure_ascii=False, sort_keys=True, default=str) if columns else None


def _listed(paths: list[Path]) -> str:
    return f"[{', '.join(_quote(str(path)) for path in paths)}]"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
