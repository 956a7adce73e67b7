"""`winnow train --dry-run`: what a config's stages would take, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from pipelines.cli.errors import CommandError


def show_plan(
    console: Console,
    config: Any,
    data: Sequence[str],
    gpus: str | None,
    gpu: str | None,
    mfu: float,
    as_json: bool,
    watcher: Any,
) -> bool:
    """Print the plan; whether all stages fit. With data its clips are counted. Raises RunError, DataError."""
    from video_model.training.planning.cards import machine
    from video_model.training.planning.plan import plan

    if not 0 < mfu <= 1:
        raise CommandError(f"--mfu {mfu:g}: a share of the peak, above 0 and up to 1")
    found = plan(config, machine(gpus, gpu, config.loop.precision), mfu, watcher.phase)
    counted = _counted(config, data) if data else {}
    if as_json:
        console.print_json(json.dumps(found.as_json() | {"data": counted}))
        return found.fits
    for line in lines_of(found, config, counted):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return found.fits


def lines_of(found: Any, config: Any, counted: dict[str, Any]) -> list[str]:
    """The plan in words and figures; 1 GB is 10^9 bytes."""
    machine = found.machine
    several = (
        f"{machine.workers} GPUs of {machine.gb:g} GB" if machine.kind == "cuda" else f"a CPU, {machine.gb:.1f} GB free"
    )
    lines = [
        f"on {several}, {config.loop.strategy}, {config.loop.precision}"
        + (", checkpointing" if config.loop.checkpointing else "")
        + f"; {machine.name}: {machine.tflops:.3g} TFLOP/s at its peak ({machine.source}), {found.mfu:.0%} of it assumed"
    ]
    lines += [f"assumed: {text}" for text in found.assumed]
    for stage in found.stages:
        frames, height, width = stage.shape
        parts = {**stage.memory, "samples, in place of a step": stage.samples}
        lines += [
            "",
            f"{stage.name}: {frames} x {height}x{width}, {stage.rows} rows at once, {stage.parts} parts a step; "
            f"{stage.parameters / 1e6:,.0f} M parameters, {stage.trained / 1e6:,.0f} M trained",
            "  GB of one: " + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items()),
            f"  {'fits' if stage.fits else 'DOES NOT FIT'}: {stage.peak / 1e9:.1f} of {stage.room / 1e9:.1f} GB at its peak "
            f"({stage.moment}); largest micro_batch that fits: {stage.most_rows or 'none'}",
            f"  {stage.flops / 1e12:,.3g} TFLOP and {_time(stage.seconds)} a step, {_time(stage.seconds * stage.steps)} for "
            f"{stage.steps:,} steps",
        ]
        lines += [f"  {'to fit' if not stage.fits else 'room'}: {fix}" for fix in stage.fixes]
        if stage.name in counted:
            lines.append("  " + counted[stage.name]["text"])
    sizes = ", ".join(f"{size / 1e6:.1f} MB at {name}" for name, size in found.latents.items())
    lines += [
        "",
        f"latents of a clip of 10 s: {sizes} ({config.data.cache_dtype}); states of a caption: {found.texts / 1e3:.0f} kB",
    ]
    million = sum(found.latents.values()) * 1e6 / 1e12
    lines.append(
        f"a million such clips, at all of these sizes: {million:,.1f} TB; where that is more than the disk holds, "
        "data.cache=false encodes clips as they are needed, on the GPUs that train"
    )
    if total := counted.get("latents"):
        lines.append(
            f"latents and states of this data: {total / 1e9:,.2f} GB"
            + ("" if config.data.cache else ", were they cached")
        )
    return lines


def _counted(config: Any, data: Sequence[str]) -> dict[str, Any]:
    """Clips and steps of an epoch by stage, and the bytes of all latents on disk."""
    from video_model.training.planning.counts import counted

    found = counted(config, data)
    for name in config.stages:
        facts = found[name]
        facts["text"] = (
            f"{facts['clips']:,} clips; an epoch is {facts['epoch']:,} steps, the stage {facts['epochs']:.1f} epochs"
        )
    return found


def _time(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {name}"
    return f"{seconds:.2g} s"
