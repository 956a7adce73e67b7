"""One clip, and the film it lies in: every score with its standing, and the source's shots, transitions, clips and flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.dataset import labels
from pipelines.dataset.tables import CLIP_IDENTITY, CLIP_TAIL, OF_VIDEO
from pipelines.inspector.data.choice import Choice
from pipelines.inspector.data.columns import PLACE, Columns
from pipelines.inspector.data.inspected import notes_of
from pipelines.inspector.data.listing import badges, group_column, number
from pipelines.inspector.data.media import STILLS, Media, video_rows

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
UNIT_FACTS = ("unit", "end_time", "transitions")
TIMES, SAMPLES = "_times", "_samples"
MAX_SAMPLES = 2000
SHOWN = {"caption_merged_from", "video_codec", "cut", *labels.COLUMNS}  # elsewhere in the dialog
STANDING = {column.name for column in (*CLIP_IDENTITY, *CLIP_TAIL)} | set(OF_VIDEO)  # of every dataset, whatever ran


def one_clip(columns: Columns, media: Media, choice: Choice, place: int) -> dict[str, Any]:
    """All that is known of a clip."""
    (row,) = columns.rows([place], columns.held)
    inspected = columns.inspected
    scores = []
    for name, values in columns.values.items():
        standing = columns.standing(name, place)
        scores.append({"name": name, "value": number(values[place]), "standing": standing, **columns.notes(name)})
    errors = row.get("errors") or {}
    if isinstance(errors, list):
        errors = {error["stage"]: error["reason"] for error in errors}
    captions = []
    for name in columns.captions:
        like = name.replace("caption_", "similarity_")
        similarity = number(columns.values[like][place]) if like in columns.values else None
        captions.append({"name": name, "text": row[name], "similarity": similarity, **inspected.field(name)})
    others = [
        {"name": name, "value": plain(row[name]), **inspected.field(name)}
        for name in columns.held
        if name not in columns.values and name not in columns.captions and name not in STANDING | SHOWN
    ]
    facts = media.video_row(place, row.get("video_id"), row.get("unit"), list(FACTS))
    group = group_column(columns.held)
    return {
        "id": row["clip_id"],
        "video": row.get("video_id"),
        "path": row.get("video_path"),
        "row": {name: plain(row[name]) for name in columns.held if name not in columns.captions and name != "errors"},
        "facts": {name: plain(value) for name, value in facts.items()},
        "scores": scores,
        "others": others,
        "captions": captions,
        "merged_from": row.get("caption_merged_from"),
        "errors": sorted(dict(errors).items()),
        "stills": [which for which in STILLS if f"still_{which}" in inspected.schema.names],
        "kept": choice.kept[place],
        "badges": badges(choice, place),
        "label": row.get("label"),
        "note": row.get("label_note"),
        "group": [group, plain(row[group])] if group and row[group] is not None else None,
    }


def film(columns: Columns, choice: Choice, video_id: str) -> dict[str, Any]:
    """The whole source: clips in order with their verdicts; shots, transitions and what was measured along it, where the
    dataset has them."""
    rows = columns.query(
        f"""SELECT {PLACE}, clip_id, start_time, end_time, shot_start_time, shot_end_time FROM clips
           WHERE video_id = ? ORDER BY start_time, {PLACE} LIMIT 20000""",
        [video_id],
    )
    clips = [
        {
            "id": clip_id,
            "start": start,
            "end": end,
            "shot": [shot_start, shot_end],
            "kept": choice.kept[place],
            "badges": [index for index, _ in badges(choice, place)],
        }
        for place, clip_id, start, end, shot_start, shot_end in rows
    ]
    units, notes = _units(columns, [row[0] for row in rows], video_id)
    transitions = [dict(gap) for unit in units for gap in unit.get("transitions") or ()]
    lanes = _lanes(units, notes) or _lane_of_clips(columns, rows)
    ends = [clip["end"] for clip in clips] + [unit["end_time"] for unit in units if unit.get("end_time") is not None]
    starts = [clip["start"] for clip in clips] + [gap["start"] for gap in transitions]
    return {
        "clips": clips,
        "transitions": transitions,
        "lanes": lanes,
        "start": min([0.0, *starts]),
        "end": max([*ends, *(time for lane in lanes for time in lane["times"])], default=0.0),
    }


def _lanes(units: list[dict[str, Any]], notes: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """What was measured along the film: of each column NAME_samples of videos/ that has a twin NAME_times."""
    lanes = []
    for name in sorted({name.removesuffix(SAMPLES) for unit in units for name in unit if name.endswith(SAMPLES)}):
        times = [time for unit in units for time in unit.get(name + TIMES) or ()]
        values = [value for unit in units for value in unit.get(name + SAMPLES) or ()]
        if len(times) == len(values) > 0:
            step = max(1, len(times) // MAX_SAMPLES)
            values = [number(value) for value in values[::step]]
            lanes.append({"name": name, "times": times[::step], "values": values, **notes[name + SAMPLES]})
    return lanes


def _lane_of_clips(columns: Columns, rows: list[tuple]) -> list[dict[str, Any]]:
    """In their place, where only clips are known: how much each of them moves."""
    motion = columns.values.get("motion_score")
    if motion is None:
        return []
    scored = [(start, end, float(motion[place])) for place, _, start, end, *_ in rows if not np.isnan(motion[place])]
    times = [time for start, end, _ in scored for time in (start, end)]
    values = [value for *_, value in scored for _ in range(2)]
    return [{"name": "motion of clips", "times": times, "values": values, **columns.notes("motion_score")}]


def _units(
    columns: Columns, places: list[int], video_id: str
) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
    """Rows of videos/ in the shards that hold clips of the video; and the notes of their columns."""
    if columns.inspected.kind != "annotated" or not places:
        return [], {}
    found, notes = {}, {}
    for file in sorted({int(columns.file[place]) for place in places}):
        rows, schema = video_rows(columns, file, _measured, video_id)
        notes |= {name: notes_of(schema.field(name)) for name in schema.names if name.endswith(SAMPLES)}
        found |= {row["unit"]: row for row in rows}
    return [found[unit] for unit in sorted(found)], notes


def _measured(schema: pa.Schema) -> list[str]:
    """Columns of videos/ that a film shows: facts of units, and what was measured along them."""
    samples = [n for n in schema.names if n.endswith(SAMPLES) and n.removesuffix(SAMPLES) + TIMES in schema.names]
    wanted = {*UNIT_FACTS, *samples, *(name.removesuffix(SAMPLES) + TIMES for name in samples)}
    return [name for name in schema.names if name in wanted]


def plain(value: Any) -> Any:
    """A JSON value."""
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
