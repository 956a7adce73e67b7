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
            clips = Thinned(part.view("num_frames"), part.view("fps"), rates, most)
            given = stores.sizes(name)
            for rows in part.parts():
                counts, chosen = clips.counts(rows).tolist(), nearest_size(part.shape_of(rows), given)
                for i, key in enumerate(part.texts_at("clip_id", rows)):
                    height, wide = given[chosen[i]]
                    latent = outlines.channels * (height // outlines.factor) * (wide // outlines.factor)
                    sizes[key, (height, wide)] = counts[i] * (latent * width + TIME)
            for column, share in part.captions.items():
                captions.update(text for text in part.text(column).unique().to_pylist() if share > 0 and text)
    texts = len(captions) * outlines.tokens * outlines.dim * width
    return found | {"latents": sum(sizes.values()) + texts}
