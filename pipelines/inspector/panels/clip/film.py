"""One clip, and the film it lies in: every score with its standing, and the source's shots, transitions, clips and flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.inspector.data.choice import Choice
from pipelines.inspector.data.columns import Columns
from pipelines.inspector.data.listing import badges, group_column, number
from pipelines.inspector.data.media import STILLS, Media

FACTS = (
    "codec",
    "pixel_format",
    "container",
    "duration",
    "bytes",
    "rotation",
    "variable_frame_rate",
    "interlaced",
    "frames_decoded",
)
MAX_SAMPLES = 2000


def one_clip(columns: Columns, media: Media, choice: Choice, place: int) -> dict[str, Any]:
    """All that is known of a clip."""
    (row,) = columns.rows([place], columns.held)
    inspected = columns.inspected
    scores = []
    for name, values in columns.values.items():
        value = values[place]
        standing = None
        if not np.isnan(value):
            scored = np.count_nonzero(~np.isnan(values))
            standing = (int(np.count_nonzero(values < value)) + int(np.count_nonzero(values <= value))) / 2 / scored
        scores.append({"name": name, "value": number(value), "standing": standing, **columns.notes(name)})
    errors = row.get("errors") or {}
    if isinstance(errors, list):
        errors = {error["stage"]: error["reason"] for error in errors}
    captions = []
    for name in columns.captions:
        like = name.replace("caption_", "similarity_")
        similarity = number(columns.values[like][place]) if like in columns.values else None
        captions.append({"name": name, "text": row[name], "similarity": similarity, **inspected.field(name)})
    facts = media.video_row(place, row.get("video_id"), row.get("unit"), list(FACTS))
    group = group_column(columns.held)
    return {
        "id": row["clip_id"],
        "video": row.get("video_id"),
        "path": row.get("video_path"),
        "row": {name: plain(row[name]) for name in columns.held if name not in columns.captions and name != "errors"},
        "facts": {name: plain(value) for name, value in facts.items()},
        "scores": scores,
        "captions": captions,
        "merged_from": row.get("caption_merged_from"),
        "errors": sorted(dict(errors).items()),
        "stills": [which for which in STILLS if f"still_{which}" in inspected.schema.names],
        "kept": bool(choice.kept[place]),
        "badges": badges(choice, place),
        "label": row.get("label"),
        "note": row.get("label_note"),
        "group": [group, plain(row[group])] if group and row[group] is not None else None,
    }


def film(columns: Columns, choice: Choice, video_id: str) -> dict[str, Any]:
    """The whole source: clips in order with their verdicts; shots, transitions and flow where the dataset has them."""
    rows = columns.query(
        """SELECT rowid, clip_id, start_time, end_time, shot_start_time, shot_end_time FROM clips
           WHERE video_id = ? ORDER BY start_time, rowid LIMIT 20000""",
        [video_id],
    )
    motion = columns.values.get("motion_score")
    clips = [
        {
            "id": clip_id,
            "start": start,
            "end": end,
            "shot": [shot_start, shot_end],
            "kept": bool(choice.kept[place]),
            "badges": [index for index, _ in badges(choice, place)],
            "motion": number(motion[place]) if motion is not None else None,
        }
        for place, clip_id, start, end, shot_start, shot_end in rows
    ]
    transitions, times, flow, units = [], [], [], []
    for unit in _units(columns, [row[0] for row in rows], video_id):
        transitions += [dict(gap) for gap in unit.get("transitions") or ()]
        times += unit.get("motion_times") or []
        flow += unit.get("motion_samples") or []
        units.append([unit.get("unit_start"), unit.get("end_time"), unit.get("duration")])
    ends = [clip["end"] for clip in clips] + [unit[1] for unit in units if unit[1] is not None] + times
    starts = [clip["start"] for clip in clips] + [gap["start"] for gap in transitions]
    step = max(1, len(times) // MAX_SAMPLES)
    return {
        "clips": clips,
        "transitions": transitions,
        "flow": {"times": times[::step], "values": [number(value) for value in flow[::step]]},
        "start": min([0.0, *starts]),
        "end": max(ends, default=0.0),
    }


def _units(columns: Columns, places: list[int], video_id: str) -> list[dict[str, Any]]:
    """Rows of videos/ in the shards that hold clips of the video."""
    inspected = columns.inspected
    if inspected.kind != "annotated" or not places:
        return []
    found = {}
    for number_ in sorted({int(columns.file[place]) for place in places}):
        path = inspected.root / "videos" / columns.files[number_].rsplit("/", 1)[-1]
        try:
            names = set(pq.read_schema(path).names)
            wanted = ["unit", "unit_start", "end_time", "duration", "transitions", "motion_times", "motion_samples"]
            read = [name for name in wanted if name in names]
            table = pq.read_table(path, columns=read, filters=[("video_id", "=", video_id)], use_threads=False)
        except OSError:
            continue
        found |= {row["unit"]: row for row in table.to_pylist()}
    return [found[unit] for unit in sorted(found)]


def plain(value: Any) -> Any:
    """A JSON value."""
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
