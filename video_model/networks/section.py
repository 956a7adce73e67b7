"""What a network is to a training run: its section of the config, and what the trained module answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from curate.base.section import Section


class VideoNetwork(Protocol):
    """`network(x, c_noise, cond) -> [B, T, C, h, w]` for x [B, T, C, h, w] and c_noise [B], as a torch module.

    temporal: whether it is a video network. stride: what height and width of the latents must be multiples of.
    checkpointing: set it to keep few activations and compute the rest twice. blocks: classes of the modules that FSDP
    shards one by one.
    """

    temporal: bool
    stride: int
    checkpointing: bool
    blocks: tuple[type[nn.Module], ...]

    def __call__(self, x: Tensor, c_noise: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor: ...

    def temporal_names(self) -> list[str]:
        """Parameters that only a video network has: what a stage trains with `train: temporal`."""

    def time_embedding_names(self) -> list[str]:
        """Parameters of the embedding of the noise level: what a stage trains with `train: time_embedding`."""


class NetworkSection(Section):
    """A section `network` of a training config, chosen by its field `kind`, and how such a network is built."""

    @property
    def multiple(self) -> int:
        """What height and width of the latents must be multiples of."""
        raise NotImplementedError

    def image(self, latent_channels: int, text_dim: int | None) -> Any:
        """A fresh image network for latents of so many channels and text states of so many (None: it attends to nothing).
        Raises ValueError."""
        raise NotImplementedError

    def video(self, network: Any, vectors: Sequence[str], concat_channels: int) -> Any:
        """A video network that computes, frame by frame, what an image network does; or a video network with other
        conditions. What is new has no effect yet.

        vectors: names of the numbers in cond["vectors"]. concat_channels: of cond["concat"], 0 for none.
        """
        raise NotImplementedError
