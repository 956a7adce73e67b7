"""The card of a curated dataset: README.md with the header that the hub and `datasets.load_dataset` read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from curate.base.files import atomic_file
from curate.selection.selection import Selection
from pipelines.curated.card.plots import plot_scores
from pipelines.curated.card.sheet import contact_sheet
from pipelines.formats.format import Format

OVERVIEW = "overview.png"


def write_card(
    out: Path, dataset: Any, selection: Selection, about: dict[str, Any], format: Format, schema: pa.Schema
) -> None:
    """Write README.md and plots/. about: what selection.json will hold. format, schema: of the shards."""
    annotated = dataset.schema("clips")
    plots = plot_scores(dataset.clips_sql, annotated, selection, out / "plots")
    sheet = contact_sheet(dataset.clips_sql, selection, out / "plots" / OVERVIEW)
    pictures = [*([OVERVIEW] if sheet else []), *(plot["file"] for plot in plots)]
    text = card(selection, about, format, schema, pictures)
    with atomic_file(out / "README.md") as stream:
        stream.write(text.encode())


def card(
    selection: Selection, about: dict[str, Any], format: Format, schema: pa.Schema, pictures: Sequence[str]
) -> str:
    """pictures: names of files in plots/, the overview first if there is one."""
    header = yaml.safe_dump(_header(about["curated"], format, schema), sort_keys=False, allow_unicode=True)
    plots = [name for name in pictures if name != OVERVIEW]
    parts = [
        f"---\n{header}---\n",
        f"# Clips selected from {_safe(Path(about['dataset']['path']).name)}\n",
        _summary(selection, about),
    ]
    if OVERVIEW in pictures:
        parts.append(f"![Stills of clips kept and dropped, with the filter that dropped them](plots/{OVERVIEW})\n")
    parts += [
        "## Use\n",
        format.loading(),
        "## What was kept\n",
        _funnel(selection),
        "Percentiles are over all clips that have a score. A clip without a score is dropped by a filter on it, and "
        "counted as null. *Alone* is what a filter would drop by itself; *in order* is what is left after it and "
        "those above.\n",
    ]
    if plots:
        parts += ["## Scores before and after\n", _gallery(plots)]
    parts += [
        "## Where it came from\n",
        *_origin(about),
        _models(about["dataset"]["models"]),
        "## Columns\n",
        _columns(schema),
        "## Licence\n",
        "The clips are parts of the source videos and keep the licences of these; Winnow adds none. Whoever passes "
        "this dataset on has to check that the sources allow it. Captions and scores were made by the models above, "
        "under the licences of these.\n",
    ]
    return "\n".join(parts)


def _summary(selection: Selection, about: dict[str, Any]) -> str:
    made = about["curated"]
    return (
        f"{made['clips']:,} clips, {_hours(made['hours'])}, {made['bytes'] / 1e9:.3g} GB of video in {made['shards']} "
        f"{'shard' if made['shards'] == 1 else 'shards'}, selected from {selection.clips:,} clips "
        f"({_hours(selection.hours)}) "
        f"by Winnow {about['winnow']}. The query and its thresholds are in `selection.json`.\n"
    )


def _origin(about: dict[str, Any]) -> list[str]:
    made, config = about["curated"], about["dataset"]["config"]
    failed = ", each with its reason in `selection.json`.\n" if made["failed"] else ".\n"
    return [
        f"- Sources: the files named in `video_path`; the annotated dataset was `{_safe(about['dataset']['path'])}`.",
        f"- Model pack: `{_safe(str(config.get('pack', '')))}`. Its whole config is in `selection.json`.",
        f"- Order: shuffled with seed {about['request']['seed']}. Bytes: {made['copied']:,} clips copied from their "
        f"source at keyframes, {made['transcoded']:,} encoded again (H.264), without sound. Frames, times and sizes "
        "in a row are those of its bytes.",
        _trimmed(made),
        f"- Not cut: {len(made['failed']):,} clips{failed}",
    ]


def _trimmed(made: dict[str, Any]) -> str:
    """How much of what was scored is not in the bytes."""
    if not made["trimmed"]:
        return "- Trimmed: none: every clip holds all the frames that were scored."
    share = made["frames_lost"] / made["frames_scored"]
    return (
        f"- Trimmed: {made['trimmed']:,} of {made['copied']:,} copies begin at a later keyframe, or end earlier, than the "
        f"clip that was scored (`scored_start_frame` to `scored_end_frame`): {made['frames_lost']:,} frames, {share:.1%} "
        "of all. No clip lost more than `export.trim` allows, and none fails a filter for it."
    )


def _header(made: dict[str, Any], format: Format, schema: pa.Schema) -> dict[str, Any]:
    names = {
        "pretty_name": "Winnow clips",
        "task_categories": ["text-to-video"],
        "tags": ["video", "winnow"],
    }
    return names | format.header(schema, made)


def _funnel(selection: Selection) -> str:
    head = ["filter", "keeps", "alone: failing", "null", "hours", "in order: clips left", "hours"]
    rows = [("all clips", "", "", "", "", f"{selection.clips:,}", f"{selection.hours:.3f}")]
    for step in selection.steps:
        rows.append(
            (
                _code(step.name),
                _code(step.condition) if step.threshold is not None else "",
                f"{step.failing:,}",
                f"{step.null:,}",
                f"{step.dropped_hours:.3f}",
                f"{step.remaining:,}",
                f"{step.remaining_hours:.3f}",
            )
        )
    return _table(head, rows)


def _gallery(plots: list[str]) -> str:
    """The plots in two columns."""
    cells = [f"![{Path(plot).stem}](plots/{plot})" for plot in plots] + [""] * (len(plots) % 2)
    return _table(["", ""], list(zip(cells[::2], cells[1::2], strict=True)))


def _models(models: dict[str, Any]) -> str:
    """models: role -> {kind, pack, weights: [{model, source, sha256}]}, as dataset.json has them."""
    rows = []
    for role, model in sorted(models.items()):
        for weights in model.get("weights") or [{}]:
            name = weights.get("model") or model.get("kind", "")
            rows.append((_code(role), _cell(name), _cell(weights.get("source", "")), _code(weights.get("sha256", ""))))
    return _table(["role", "model", "weights from", "SHA-256 (first digits)"], rows) if rows else ""


def _columns(schema: pa.Schema) -> str:
    rows = []
    for field in schema:
        note = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        kind = (
            "struct<bytes, path>"
            if field.name == "video"
            else str(field.type).replace("element: ", "").replace("item: ", "")
        )
        rows.append(
            (_code(field.name), _cell(kind), _cell(note.get("formula", "")), _cell(note.get("unit", "")),
             _cell(note.get("range", "")), _cell(note.get("source", "")))
        )  # fmt: skip
    return _table(["column", "type", "meaning", "unit", "range", "source"], rows)


def _table(head: list[str], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    """Text that cannot leave its cell."""
    return _safe(str(value)).replace("|", "\\|")


def _code(value: Any) -> str:
    text = " ".join(str(value).replace("`", "'").split()).replace("|", "\\|")
    return f"`{text}`" if text else ""


def _safe(text: str) -> str:
    return " ".join(text.replace("`", "'").replace("<", "&lt;").split())


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
