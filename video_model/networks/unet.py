"""The space-time UNet: an image UNet whose layers are followed by temporal mixers.

Without them it computes what Stable Diffusion 1.x and 2.x do, with them what Stable Video Diffusion does (Blattmann et
al. 2023, appendix D); weights.py moves public checkpoints in and out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from video_model.networks.blocks import Down, ResBlock, Transformer, Up
from video_model.networks.embeddings import FrameEmbedding, PooledText, tilted
from video_model.networks.layers import FrameTimes, Given, Tokens, embedding_mlp, norm_silu, sinusoid, zero
from video_model.networks.mixers import AttentionPlace, ConvPlace, attention_mixer, conv_mixer
from video_model.networks.unet_config import UNetConfig


class SpaceTimeUNet(nn.Module):
    """`network(x, c_noise, cond) -> [B, T, out, h, w]` for x [B, T, C, h, w] and c_noise [B].

    `cond` may hold "text" [B, L, D] or [B, T, L, D] with "text_mask" [B, L] or [B, T, L] (True: a token), "vectors"
    and "vectors_mask" [B, V] (False: not given), "concat" [B, T, Cc, h, w], and "images" [B]: rows whose frames are
    independent images, which no temporal layer touches. What is missing counts as not given: no text is one zero
    state, no concat is zeros. Height and width must be multiples of `network.stride`.

    With `network.checkpointing = True` training keeps only the inputs of the layers and computes the rest twice.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = c = config
        self.checkpointing = False
        self.stride = 2 ** (len(c.channels) - 1)
        self.emb_width = 4 * c.channels[0]
        self.noise_embedding = embedding_mlp(c.channels[0], self.emb_width, self.emb_width)
        if c.pooled_text and c.context_dim:
            self.text_embedding = PooledText(c.context_dim, self.emb_width)
        if c.frame_index and c.temporal:
            self.frame_embedding = FrameEmbedding(c.channels[0], self.emb_width, c.context_dim)
        if c.vectors:
            self.vector_embedding = embedding_mlp(c.vector_width * len(c.vectors), self.emb_width, self.emb_width)
        self.conv_in = nn.Conv2d(c.in_channels, c.channels[0], 3, padding=1)
        if c.concat_channels:  # a convolution of its own: appending channels cannot change the sums over the others
            self.concat_in = nn.Conv2d(c.concat_channels, c.channels[0], 3, padding=1, bias=False)

        skips, width = [c.channels[0]], c.channels[0]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, channels in enumerate(c.channels):
            stage = Level()
            for _ in range(c.layers[level]):
                stage.layers.append(self._layer(width, level, "down"))
                skips.append(width := channels)
            if level < len(c.channels) - 1:
                stage.resize = Down(channels)
                skips.append(channels)
            self.down.append(stage)
        self.middle = Level()
        self.middle.layers.append(self._layer(width, -1, "middle", attention=c.middle_attention))
        self.middle.layers.append(self._layer(width, -1, "middle", attention=False))
        for level, channels in reversed(list(enumerate(c.channels))):
            stage = Level()
            for _ in range(c.layers[level] + 1):
                stage.layers.append(self._layer(width + skips.pop(), level, "up"))
                width = channels
            if level > 0:
                stage.resize = Up(channels)
            self.up.append(stage)
        self.norm_out = nn.GroupNorm(c.norm_groups, width, 1e-5)
        self.conv_out = zero(nn.Conv2d(width, c.out_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, c_noise: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        cond = cond or {}
        self._check(x, cond)
        batch, frames = x.shape[:2]
        given = self._given(x, c_noise, cond)

        h = self.conv_in(_flat(x))  # [B*T, channels, h, w] from here on
        if given.index is not None:
            h = tilted(h, given.index.tilt)
        if "concat" in cond and self.config.concat_channels:
            h = h + self.concat_in(_flat(cond["concat"].to(x.dtype)))
        skips = [h]
        for stage in self.down:
            for layer in stage.layers:
                h = self._run(layer, h, given)
                skips.append(h)
            if stage.resize is not None:
                h = stage.resize(h)
                skips.append(h)
        for layer in self.middle.layers:
            h = self._run(layer, h, given)
        for stage in self.up:
            for layer in stage.layers:
                h = self._run(layer, torch.cat([h, skips.pop()], 1), given)
            if stage.resize is not None:
                h = stage.resize(h)
        return self.conv_out(norm_silu(h, self.norm_out)).unflatten(0, (batch, frames))

    def temporal_names(self) -> list[str]:
        """Names of the parameters that only a temporal network has: of its mixers, and of the times of frames."""
        names = [name for name, _ in self.named_parameters()]
        return [name for name in names if ".time." in name or name.startswith("frame_embedding.")]

    def time_embedding_names(self) -> list[str]:
        """Names of the parameters that embed the noise level."""
        return [name for name, _ in self.named_parameters() if name.startswith("noise_embedding.")]

    @property
    def temporal(self) -> bool:
        return self.config.temporal

    @property
    def blocks(self) -> tuple[type[nn.Module], ...]:
        """What FSDP shards one by one."""
        return (Layer,)

    def _layer(self, inputs: int, level: int, side: str, attention: bool | None = None) -> "Layer":
        c, channels, heads = self.config, self.config.channels[level], self.config.heads[level]
        eps = 1e-5 if c.epsilon == "sd" or side == "middle" or (side == "down" and not c.attention[level]) else 1e-6
        layer = Layer()
        layer.res = ResBlock(inputs, channels, self.emb_width, c.norm_groups, eps)
        place = ConvPlace(channels, self.emb_width, c.norm_groups, eps)
        layer.time = conv_mixer(c.conv_mixing if c.temporal else "none", place)
        if c.attention[level] if attention is None else attention:
            depths = c.up_transformer_layers if side == "up" else None
            depth = (depths or c.transformer_layers)[level]
            place = AttentionPlace(channels, heads, c.context_dim, depth, c.ff_multiple)
            mixer = attention_mixer(c.attention_mixing if c.temporal else "none", place)
            layer.attention = Transformer(channels, heads, c.context_dim, depth, c.norm_groups, c.ff_multiple, mixer)
        return layer

    def _run(self, layer: "Layer", h: Tensor, given: Given) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, h, given, use_reentrant=False)
        return layer(h, given)

    def _given(self, x: Tensor, c_noise: Tensor, cond: dict[str, Tensor]) -> Given:
        batch, frames = x.shape[:2]
        dtype = self.noise_embedding[0].weight.dtype
        emb = self.noise_embedding(sinusoid(c_noise, self.config.channels[0]).to(dtype))
        if self.config.vectors:
            emb = emb + self.vector_embedding(self._vectors(batch, cond).to(emb))
        text = first = states = known = None
        if self.config.context_dim:
            text = cond.get("text", x.new_zeros(batch, 1, self.config.context_dim)).to(dtype)
            mask = cond.get("text_mask")
            states, known = (
                text if text.ndim == 3 else text[:, 0],
                mask if mask is None or mask.ndim == 2 else mask[:, 0],
            )
            if self.config.pooled_text:
                emb = emb + self.text_embedding(states, known)
            first = _tokens(states, known)
            per_frame = text.ndim == 4
            text = _tokens(text.flatten(0, 1), mask if mask is None else mask.flatten(0, 1)) if per_frame else first
        images = cond.get("images")
        index = None
        if self.config.frame_index and self.config.temporal and not (images is not None and images.all()):
            index = self.frame_embedding(emb, frames, self._rates(cond), states, known)
            if images is not None:
                alone = images.repeat_interleave(frames)[:, None]
                index = FrameTimes(index.emb.masked_fill(alone, 0), index.tilt.masked_fill(alone[..., None], 0))
        given = Given(frames, F.silu(emb), text, first, index)
        if not self.config.temporal or images is None or not images.any():
            return given
        videos = (~images).nonzero()[:, 0]
        if not len(videos):
            return given._replace(videos=videos)
        rows = first and Tokens(first.states[videos], None if first.bias is None else first.bias[videos])
        return given._replace(videos=videos, video=Given(frames, given.emb[videos], first=rows))

    def _rates(self, cond: dict[str, Tensor]) -> Tensor | None:
        """Frames a second [B] where they are given, else nan; single frames have 0, which is none."""
        if "vectors" not in cond or "fps" not in self.config.vectors:
            return None
        values, known = (numbers[:, self.config.vectors.index("fps")] for numbers in _numbers(cond))
        return values.masked_fill(~(known & (values > 0)), torch.nan)

    def _vectors(self, batch: int, cond: dict[str, Tensor]) -> Tensor:
        names, width = self.config.vectors, self.config.vector_width
        if "vectors" not in cond:
            return torch.zeros(batch, len(names) * width, device=self.conv_in.weight.device)
        values, known = _numbers(cond)
        shift = torch.tensor([1.0 if name == "fps" else 0.0 for name in names], device=values.device)
        waves = sinusoid(torch.where(known, values - shift, 0.0), width)  # [B, V, width]
        return (waves * known[..., None]).flatten(1)

    def _check(self, x: Tensor, cond: dict[str, Tensor]) -> None:
        c = self.config
        if x.ndim != 5 or x.shape[2] != c.in_channels:
            raise ValueError(f"x must be [B, T, {c.in_channels}, h, w] for this network (got {list(x.shape)})")
        if x.shape[3] % self.stride or x.shape[4] % self.stride:
            raise ValueError(
                f"height and width of x must be multiples of {self.stride}, as the network has {len(c.channels)} levels "
                f"(got {x.shape[3]} x {x.shape[4]}): crop or pad the latents, or take fewer levels"
            )
        batch, frames = x.shape[:2]
        wanted = {
            "text": [[batch, None, c.context_dim], [batch, frames, None, c.context_dim]],
            "vectors": [[batch, len(c.vectors)]],
            "concat": [[batch, frames, c.concat_channels, *x.shape[3:]]],
            "images": [[batch]],
        }
        for name, shapes in wanted.items():
            if name in cond and not any(_fits(cond[name].shape, shape) for shape in shapes):
                shapes = " or ".join(str(shape).replace("None", "L") for shape in shapes)
                raise ValueError(
                    f"cond[{name!r}] must have shape {shapes} for this network (got {list(cond[name].shape)})"
                )
        if "text" in cond and cond["text"].ndim == 4 and (c.pooled_text or (c.frame_index and c.temporal)):
            raise ValueError(
                "text by frame [B, T, L, D] goes with neither pooled_text nor frame_index: give one text a row"
            )
        for name, mask in (("text", "text_mask"), ("vectors", "vectors_mask")):
            if mask in cond and (name not in cond or cond[mask].shape != cond[name].shape[: cond[mask].ndim]):
                raise ValueError(
                    f"cond[{mask!r}] {list(cond[mask].shape)} must come with a cond[{name!r}] that has its shape"
                )


class Level(nn.Module):
    """Layers of one level, and the change of resolution after them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList()
        self.resize: nn.Module | None = None


class Layer(nn.Module):
    """Residual block, its temporal mixer, and a transformer at levels that have one."""

    res: ResBlock
    time: nn.Module

    def __init__(self):
        super().__init__()
        self.attention: Transformer | None = None

    def forward(self, x: Tensor, given: Given) -> Tensor:
        x = self.res(x, given)
        rows, channels, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(-1, given.frames, height * width, channels)  # a view
        x = self.time(tokens, given).reshape(rows, height, width, channels).permute(0, 3, 1, 2)
        return x if self.attention is None else self.attention(x, given)


def inflate(image: SpaceTimeUNet, **changes) -> SpaceTimeUNet:
    """A video network that computes, frame by frame and bit for bit, what the image network does.

    `changes` are fields of the new config: mixing kinds, `concat_channels`, `vectors`. What is new starts without effect.
    """
    config = UNetConfig(**{**image.config.model_dump(), "temporal": True, **changes})
    network, kept = SpaceTimeUNet(config), image.state_dict()
    places = network.state_dict()
    for name, tensor in kept.items():
        if name not in places or places[name].shape != tensor.shape:
            raise ValueError(
                f"inflating cannot change {name} {list(tensor.shape)} of the image network: {changes} must not"
            )
    missing, _ = network.load_state_dict(kept, strict=False)
    if "concat_in.weight" in missing:
        zero(network.concat_in)
    if any(name.startswith("vector_embedding.") for name in missing):
        zero(network.vector_embedding[2])
    return network.to(image.conv_in.weight)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _numbers(cond: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """cond["vectors"] [B, V], and which of them are given."""
    values = cond["vectors"].float()
    return values, values.isfinite() & cond["vectors_mask"] if "vectors_mask" in cond else values.isfinite()


def _tokens(states: Tensor, mask: Tensor | None) -> Tokens:
    if mask is None:
        return Tokens(states, None)
    states = states.masked_fill(~mask[..., None], 0)  # so that a row without any token is the zero state
    mask = mask | ~mask.any(-1, keepdim=True)
    bias = torch.zeros(mask.shape, dtype=states.dtype, device=mask.device).masked_fill(~mask, float("-inf"))
    return Tokens(states, bias[:, None, None])


def _fits(shape: torch.Size, wanted: list[int | None]) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))
