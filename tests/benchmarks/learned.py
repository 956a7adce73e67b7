"""What a run trained on the world has learned, stage by stage: the share of drawn videos that show what they were asked for.

    python -m video_model.world.world out/world/videos --clips 3000
    winnow annotate out/world/videos/list.jsonl --out out/world/annotated --config world
    winnow select out/world/annotated --out out/world/curated
    winnow train tiny --data out/world/curated --out out/world/model --workers 2 --set "data.captions={source_caption: 1.0}"
    python -m tests.benchmarks.learned out/world/model [--prompts 128] [--guidance 3]

Every word of a prompt is measured in the drawn video (video_model.world.reader); what cannot be read counts as wrong.
The last row is what the reader finds in real clips of the world after the run's codec: the most that could be reached.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from tests.benchmarks.world import prompts_of, real_clips
from video_model.data.index import open_index
from video_model.pictures import strip, write_picture, write_video
from video_model.training.journal import read_log
from video_model.training.sampler import Sampler
from video_model.world.reader import read, score

MEASURES = ("colour", "shape", "direction", "speed", "background")
AT_ONCE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--guidance", type=float, default=None, help="default: the run's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="write the first prompts of the last stage, as strips of frames")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prompts = prompts_of(options.prompts)
    table = Table(title=f"{options.prompts} prompts", title_justify="left")
    for heading in ("stage", "steps", "minutes", *MEASURES, "held-out loss"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    guidance = None if options.guidance is None else (options.guidance, options.guidance)
    for name, stage in Sampler(options.run).config.stages.items():
        sampler = Sampler(options.run, name)
        readings, drawn = [], []
        for first in range(0, len(prompts), AT_ONCE):
            request = sampler.request(prompts[first : first + AT_ONCE], seed=1000 + first, guidance=guidance)
            videos = sampler(request)
            drawn += videos
            readings += [read(video, request.fps or 8.0) for video in videos]
        for i, video in enumerate(drawn[:16] if stage.temporal else []):
            write_video(options.run / "learned" / name / f"{i}.mp4", video, request.fps or 8.0)
        found = score(readings, prompts)
        log = read_log(sampler.run.stage(name) / "log.jsonl")
        seconds = [line["step_seconds"] for line in log if "step_seconds" in line]
        losses = [line["held_out_loss"] for line in log if "held_out_loss" in line]
        table.add_row(
            name,
            str(sampler.checkpoint.step),
            f"{sum(seconds) / max(len(seconds), 1) * sampler.checkpoint.step / 60:.1f}",
            *(f"{found[key]:.1%}" if stage.temporal or key not in ("direction", "speed") else "" for key in MEASURES),
            f"{losses[0]:.3f} to {losses[-1]:.3f}" if losses else "",
        )
    sources = sampler.run.facts["sources"][name]
    real = real_clips(options.run, open_index(sources, captions={"source_caption": 1.0}))
    table.add_section()
    table.add_row("real clips", "", "", *(f"{real[key]:.1%}" for key in MEASURES), "")
    Console(width=120).print(table)
    if options.picture:
        write_picture(options.picture, sheet(prompts[:8], drawn[:8]))


def sheet(prompts: list[str], videos: list[torch.Tensor], scale: int = 3) -> np.ndarray:
    """[H, W, 3] uint8: two columns of prompts, each over the frames of its video."""
    cells = []
    for prompt, video in zip(prompts, videos, strict=True):
        frames = np.repeat(np.repeat(strip(video), scale, 0), scale, 1)
        label = Image.new("RGB", (frames.shape[1] + 12, 18), "white")
        ImageDraw.Draw(label).text((2, 3), prompt, fill="black")
        cells.append(
            np.concatenate([np.asarray(label), np.pad(frames, ((0, 6), (0, 12), (0, 0)), constant_values=255)])
        )
    half = -(-len(cells) // 2)
    return np.concatenate([np.concatenate(cells[:half]), np.concatenate(cells[half:])], 1)


if __name__ == "__main__":
    main()
