"""A training task in small: random latents whose batches are a function of the step, on a network of 32 channels."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from video_model.config import Loop, TrainingStage
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.parametrisations import Edm
from video_model.diffusion.slots import FirstFrameSlot, FpsSlot, MotionSlot, TextSlot
from video_model.networks.unet import SpaceTimeUNet, inflate
from video_model.networks.unet_config import UNetConfig
from video_model.training.loop import StageTask
from video_model.workers import TrainingWorker

CHANNELS, WIDTH, FRAMES = 2, 16, 3


class RandomBatches:
    """Rows that are a function of (step, row). bad: (step, row) of a row that is not a number.

    stills: steps of single frames alone, `image_batch` rows of them, between steps of clips alone, as real batches are;
    None: every fourth row of each step is of independent images.
    """

    def __init__(
        self,
        batch: int = 8,
        bad: tuple[int, int] | None = None,
        stills: Collection[int] | None = None,
        image_batch: int | None = None,
    ) -> None:
        self.size, self.bad, self.stills, self.image_batch = batch, bad, stills, image_batch or batch

    def iterate(self, first, last, rank=0, world=1):
        for step in range(first, last):
            each = (self.image_batch if step in (self.stills or ()) else self.size) // world
            rows = [self.row(step, i) for i in range(rank * each, (rank + 1) * each)]
            batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
            yield batch | {"keys": [f"clip-{step}-{rank * each + i}" for i in range(each)], "captions": ["a"] * each}

    def row(self, step, i):
        draw = torch.Generator().manual_seed(1000 * step + i)
        still = step in (self.stills or ())
        latents = torch.randn(1 if still else FRAMES, CHANNELS, 4, 4, generator=draw)
        if self.bad == (step, i):
            latents[0, 0, 0, 0] = torch.nan
        return {
            "latents": latents,
            "text": torch.randn(5, 8, generator=draw),
            "text_mask": torch.ones(5, dtype=torch.bool),
            "fps": torch.tensor(0.0 if still else 8.0),
            "motion": torch.tensor(torch.nan if still else float(i)),
            "images": torch.tensor(i % 4 == 3 if self.stills is None else still),
        }


def network(seed: int = 0, temporal: bool = True) -> SpaceTimeUNet:
    torch.manual_seed(seed)
    image = SpaceTimeUNet(
        UNetConfig(
            in_channels=CHANNELS, out_channels=CHANNELS, channels=(WIDTH,), layers=(1,), attention=(True,), heads=(2,),
            context_dim=8, norm_groups=4, pooled_text=True,
        )
    )  # fmt: skip
    if not temporal:
        return image
    made = inflate(image, vectors=("fps", "motion", "augment"), concat_channels=CHANNELS + 1, frame_index=True)
    for parameter in made.parameters():  # zeros would hide what does not reach them
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return made


def task(folder: Path, *, batches=None, worker=None, net=None, loop=None, **stage) -> StageTask:
    options = {"frames": [FRAMES], "steps": 4, "batch": 8, "lr": 1e-2, "warmup": 2, "clip": 1e9, "ema": 0.9}
    slots = [
        TextSlot(dropout=0.3),
        FpsSlot(dropout=0.2),
        MotionSlot(dropout=0.2),
        FirstFrameSlot(dropout=0.5),
    ]
    return StageTask(
        name="video",
        stage=TrainingStage(**options | stage),
        loop=Loop(**{"save_every": 1, "log_every": 1, "keep": 100} | (loop or {})),
        seed=0,
        folder=Path(folder) / "stages" / "video",
        board=Path(folder) / "tensorboard",
        network=net or network(),
        conditioner=Conditioner(slots),
        parametrisation=Edm(),
        batches=batches or RandomBatches(),
        worker=worker or TrainingWorker(),
    )


def gradients(checkpoint, before=None, beta: float = 0.9) -> dict[str, torch.Tensor]:
    """Of its last step, from AdamW's first moment: beta times that of the checkpoint before, + (1 - beta) times it.

    before: None where it is the only step. A parameter that had no gradient is not among them.
    """
    found, old = checkpoint.tensors("optimizer"), before.tensors("optimizer") if before else {}
    names = [key.removesuffix(".step") for key in found if key.endswith(".step") and found[key] > old.get(key, 0)]
    moments = {name: (found[f"{name}.exp_avg"], old.get(f"{name}.exp_avg", torch.zeros(()))) for name in names}
    return {name: (new - beta * was) / (1 - beta) for name, (new, was) in moments.items()}
