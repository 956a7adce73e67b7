"""`winnow inspect RUN`: a training run as one page, made anew at each visit: curves of each stage, and its samples by step.

Curves are SVG made here: no script. What comes from the run is numbers, escaped text and pictures that the run wrote.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, Response
from jinja2 import Environment, PackageLoader

from curate.base.store import store_of
from video_model.training.curves import sigma_levels
from video_model.training.journal import read_log

WIDTH, HEIGHT, POINTS, STRIPS = 520, 150, 400, 12  # px, px, points of a curve at most, steps whose samples are shown
SAMPLE = re.compile(r"step-(\d{8})-(\d+)\.png")
CURVES = [("loss in training", "loss"), ("held-out loss", "held_out_loss"), ("learning rate", "learning_rate")]


def is_run(place: str | os.PathLike[str]) -> bool:
    """Whether a folder, or what a URL names, is a training run."""
    store = store_of(place)
    if store.folder is not None:
        return (store.folder / "config.json").is_file() and (store.folder / "stages").is_dir()
    return store.exists("config.json") and next(store.list("stages/"), None) is not None


def run_app(root: Path, refresh: Callable[[], None] | None = None) -> FastAPI:
    """The server of a run's page, to be put behind a Guard. refresh: brings the folder up to date; called at each visit."""
    app = FastAPI(title="Winnow run", docs_url=None, redoc_url=None, openapi_url=None)
    files = resources.files("pipelines.inspector")
    pages = Environment(loader=PackageLoader("pipelines.inspector", "runs"), autoescape=True, trim_blocks=True)

    @app.get("/")
    def page() -> Response:
        if refresh is not None:
            refresh()
        text = pages.get_template("run.html").render(name=root.name, stages=list(stages(root)), w=WIDTH, h=HEIGHT)
        return Response(text, media_type="text/html", headers={"cache-control": "no-store"})

    @app.get("/run.css")
    def style() -> Response:
        return Response(files.joinpath("runs", "run.css").read_bytes(), media_type="text/css")

    @app.get("/icon.svg")
    def icon() -> Response:
        return Response(files.joinpath("page", "icon.svg").read_bytes(), media_type="image/svg+xml")

    @app.get("/sample/{stage}/{name}")
    def sample(stage: str, name: str) -> Response:
        folder = root / "stages" / stage / "samples"
        if not SAMPLE.fullmatch(name) or stage not in names(root) or not (folder / name).is_file():
            raise HTTPException(404, "no such sample")
        return FileResponse(folder / name, media_type="image/png")

    return app


def names(root: Path) -> list[str]:
    """The stages that have begun, in the order of the config."""
    try:
        order = list(json.loads((root / "config.json").read_text())["stages"])
    except (OSError, ValueError, KeyError, TypeError):
        order = []
    return [name for name in order if (root / "stages" / name).is_dir()]


def stages(root: Path) -> Iterable[dict[str, Any]]:
    """What the page says of each stage."""
    for name in names(root):
        lines = read_log(root / "stages" / name / "log.jsonl")
        charts = [chart(title, [(title, points(lines, key))]) for title, key in CURVES]
        levels = list(dict.fromkeys(level for line in lines for level in sigma_levels(line)))
        by_sigma = [(level, [(line["step"], sigma_levels(line).get(level)) for line in lines]) for level in levels]
        charts.append(
            chart(
                "held-out loss by noise level (sigma)", [(n, [p for p in c if p[1] is not None]) for n, c in by_sigma]
            )
        )
        yield {
            "name": name,
            "step": int(lines[-1]["step"]) if lines else 0,
            "facts": facts(root, name),
            "charts": [found for found in charts if found],
            "samples": samples(root / "stages" / name / "samples"),
        }


def facts(root: Path, name: str) -> str:
    """What a stage is, in a line: steps that are planned, clips, size and length, LoRA and what it starts from."""
    found = []
    for path, keys in ((root / "config.json", ("stages", name)), (root / "data.json", ("clips", name))):
        try:
            tree = json.loads(path.read_text())
            found.append((tree, tree[keys[0]][keys[1]]))
        except (OSError, ValueError, KeyError, TypeError):
            found.append(({}, {}))
    (config, stage), (_, clips) = found
    size = "x".join(str(side) for side in (stage.get("sizes") or [[]])[0])
    frames = max(stage.get("frames") or [0])
    said = [
        f"of {stage['steps']:,} steps" if "steps" in stage else "",
        f"{frames} {'frame' if frames == 1 else 'frames'} of {size} px" if frames and size else "",
        f"{clips['train']:,} clips, {clips['held_out']:,} held out" if clips else "",
        f"LoRA of rank {config['lora']['rank']}" if config.get("lora") else "",
        f"from {Path(config['start']).name}" if config.get("start") else "",
    ]
    return "; ".join(text for text in said if text)


def points(lines: Sequence[dict[str, float]], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if key in line and math.isfinite(line[key])]


def chart(title: str, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> dict[str, Any] | None:
    """Curves (name, [(step, value)]) over one pair of axes, from 0 to the largest value, or from the smallest where all are
    near each other; None where there is nothing."""
    curves = [(name, found) for name, found in curves if found]
    if not curves:
        return None
    values = [value for _, found in curves for _, value in found]
    most = max(values) or 1.0
    least = min(values) if 0.6 * most < min(values) < most else 0.0
    last = max(step for _, found in curves for step, _ in found) or 1
    made = []
    for name, found in curves:
        kept = list(found[:: max(1, -(-len(found) // POINTS))])
        kept += [found[-1]] if kept[-1] != found[-1] else []
        line = " ".join(
            f"{WIDTH * step / last:.1f},{HEIGHT * (1 - 0.96 * max(value - least, 0) / (most - least)):.1f}"
            for step, value in kept
        )
        made.append({"name": name, "points": line, "first": f"{found[0][1]:.4g}", "now": f"{found[-1][1]:.4g}"})
    return {"title": title, "curves": made, "least": f"{least:.4g}", "most": f"{most:.4g}", "last": f"{int(last):,}"}


def samples(folder: Path) -> list[dict[str, Any]]:
    """Strips by step, the newest first: [{step, files, prompts}]."""
    try:
        prompts = [str(text) for text in json.loads((folder / "prompts.json").read_text())]
    except (OSError, ValueError, TypeError):
        prompts = []
    found: dict[int, list[str]] = {}
    for file in sorted(folder.glob("step-*.png")):
        if parts := SAMPLE.fullmatch(file.name):
            found.setdefault(int(parts[1]), []).append(file.name)
    return [
        {"step": step, "rows": [(file, prompts[i] if i < len(prompts) else "") for i, file in enumerate(found[step])]}
        for step in sorted(found, reverse=True)[:STRIPS]
    ]
