"""The card of a curated dataset: README.md with the header that the hub and `datasets.load_dataset` read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from curate.base.files import whole
from curate.selection.selection import Selection
from pipelines.curated.plots import contact_sheet, plot_scores


def write_card(out: Path, dataset: Any, selection: Selection, about: dict[str, Any], schema: pa.Schema) -> None:
    """Write README.md and plots/. about: what selection.json will hold. schema: of the shards."""
    annotated = dataset.schema("clips")
    plots = plot_scores(dataset.clips_sql, annotated, selection, out / "plots")
    sheet = contact_sheet(dataset.clips_sql, selection, out / "plots" / "overview.png")
    text = card(selection, about, schema, [plot["file"] for plot in plots], "overview.png" if sheet else None)
    with whole(out / "README.md") as stream:
        stream.write(text.encode())


def card(selection: Selection, about: dict[str, Any], schema: pa.Schema, plots: list[str], sheet: str | None) -> str:
    made, config = about["curated"], about["dataset"]["config"]
    name = Path(about["dataset"]["path"]).name
    parts = [
        f"---\n{yaml.safe_dump(_header(schema, made), sort_keys=False, allow_unicode=True)}---\n",
        f"# Clips selected from {_safe(name)}\n",
        f"{made['clips']:,} clips, {_hours(made['hours'])}, {made['bytes'] / 1e9:.3g} GB of video in {made['shards']} "
        f"{'shard' if made['shards'] == 1 else 'shards'}, selected from {selection.clips:,} clips "
        f"({_hours(selection.hours)}) "
        f"by Winnow {about['winnow']}. The query and its thresholds are in `selection.json`.\n",
    ]
    if sheet:
        parts.append(f"![Stills of clips kept and dropped, with the filter that dropped them](plots/{sheet})\n")
    parts += [
        "## Use\n",
        "```python\nfrom datasets import Video, load_dataset\n\n"
        'clips = load_dataset("PATH OF THIS FOLDER", split="train", streaming=True)\n'
        'clips = clips.cast_column("video", Video(decode=False))  # bytes; leave out to decode with torchcodec\n'
        'clip = next(iter(clips))\nmp4, caption = clip["video"]["bytes"], clip["caption_merged"]\n```\n',
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
        f"- Sources: the files named in `video_path`; the annotated dataset was `{_safe(about['dataset']['path'])}`.",
        f"- Model pack: `{_safe(str(config.get('pack', '')))}`. Its whole config is in `selection.json`.",
        f"- Order: shuffled with seed {about['request']['seed']}. Bytes: {made['copied']:,} clips copied from their "
        f"source at keyframes, {made['transcoded']:,} encoded again (H.264), without sound. Frames, times and sizes "
        "in a row are those of its bytes.",
        _trimmed(made),
        f"- Not cut: {len(made['failed']):,} clips"
        + (", each with its reason in `selection.json`.\n" if made["failed"] else ".\n"),
        _models(about["dataset"]["models"]),
        "## Columns\n",
        _columns(schema),
        "## Licence\n",
        "The clips are parts of the source videos and keep the licences of these; Winnow adds none. Whoever passes "
        "this dataset on has to check that the sources allow it. Captions and scores were made by the models above, "
        "under the licences of these.\n",
    ]
    return "\n".join(parts)


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


def _header(schema: pa.Schema, made: dict[str, Any]) -> dict[str, Any]:
    from datasets import Features

    features = Features.from_arrow_schema(schema)
    split = {"name": "train", "num_examples": made["clips"], "num_bytes": made["bytes"]}
    return {
        "pretty_name": "Winnow clips",
        "task_categories": ["text-to-video"],
        "tags": ["video", "winnow"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
        "dataset_info": {"features": features._to_yaml_list(), "splits": [split]},
    }


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
