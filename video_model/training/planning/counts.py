"""What a run's data comes to, before anything is encoded: clips, epochs, latents on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from video_model.config import TrainConfig
from video_model.data.buckets import nearest_size
from video_model.data.windows import Thinned
from video_model.precision import DTYPES
from video_model.training.planning.outlines import Outlines
from video_model.training.stores import Stores, Unread

TIME = 8  # bytes of a frame's time beside its latents


def counted(config: TrainConfig, sources: Sequence[str]) -> dict[str, Any]:
    """Stage -> clips, epoch (steps), epochs; and `latents`: bytes of the cache. Raises DataError."""
    stores, outlines = Stores(config, sources), Outlines.of(config)
    rates, most = stores.thinning
    width, sizes = DTYPES[config.data.cache_dtype].itemsize, dict[tuple[str, tuple[int, int]], int]()
    found: dict[str, Any] = {}
    captions: set[str] = {""}
    for name, stage in config.stages.items():
        epoch = len(stores.batches(name, Unread(rates, most)))
        found[name] = {"clips": len(stores.parts[name][0]), "epoch": epoch, "epochs": stage.steps / epoch}
        for part in stores.parts[name]:
            if not len(part):
                continue
            clips, given = Thinned(part.num_frames, part.fps, rates, most), stores.sizes(name)
            chosen = nearest_size(part.shape, given)
            for row, key in enumerate(part.keys):
                height, wide = given[chosen[row]]
                latent = outlines.channels * (height // outlines.factor) * (wide // outlines.factor)
                sizes[key, (height, wide)] = clips.count(row) * (latent * width + TIME)
            for column, share in part.captions.items():
                captions.update(text for text in part.rows[column].unique().to_pylist() if share > 0 and text)
    texts = len(captions) * outlines.tokens * outlines.dim * width
    return found | {"latents": sum(sizes.values()) + texts}
