"""What residual blocks are conditioned on beside the noise level: the text as one vector, and the time of a frame.

No public network has these; what they are for is learning sooner what the words of a caption mean.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_model.networks.layers import FrameTimes, embedding_mlp, sinusoid, zero

USUAL_RATE = 8.0  # frames a second; times are counted in frames at this rate, which is assumed where none is given


class PooledText(nn.Module):
    """Text states [B, L, D] as one vector [B, E]: an MLP of their mean, and of each token, summed over the root of L.

    In the mean the words that captions differ in are drowned; by itself each is heard.
    """

    def __init__(self, context: int, width: int):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(context), embedding_mlp(context, width, width)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            states = states.masked_fill(~mask[..., None], 0)
        there = (states != 0).any(-1, keepdim=True)  # zeros are no text
        count = there.sum(1).clamp(min=1).to(states.dtype)
        words = (self.mlp(self.norm(states)) * there).sum(1) / count.sqrt()
        return self.mlp(self.norm(states.sum(1) / count)) + words


class FrameEmbedding(nn.Module):
    """Frame-time embedding: what differs between frames because of when they are shown; zeros when fresh, and for a single frame.

    Features of its time, less their mean over the clip, are multiplied with all other conditions: "left" means another
    place in each frame. Three things make motion learnable in a tenth of the steps. Without the mean, what is common to the
    frames of a clip (where its shape happens to be) does not reach these weights as noise. The text is read here once more:
    what the image network makes of it holds no direction, as stills show none. And besides residual blocks, which
    shift a frame by the same amount everywhere, the first features are tilted, so that left and right differ.
    """

    def __init__(self, width: int, emb: int, context: int | None):
        super().__init__()
        self.norm, self.told = nn.LayerNorm(emb), nn.Linear(emb, emb)  # its name is that of checkpoints
        self.time = nn.Linear(width, emb, bias=False)
        self.text = PooledText(context, emb) if context else None
        self.out = zero(nn.Linear(emb, emb, bias=False))
        self.tilt = zero(nn.Linear(emb, 2 * width, bias=False))

    def forward(
        self, emb: Tensor, frames: int, fps: Tensor | None, states: Tensor | None, mask: Tensor | None
    ) -> FrameTimes:
        """emb [B, E]; fps [B], above 0, of the clips, nan where it is not given; states [B, L, D] and mask [B, L], the text."""
        condition = self.told(self.norm(emb))
        if self.text is not None and states is not None:
            condition = condition + self.text(states, mask)
        rate = torch.full_like(emb[:, 0], USUAL_RATE) if fps is None else fps.to(emb.device).nan_to_num(USUAL_RATE)
        times = torch.arange(frames, device=emb.device) * (USUAL_RATE / rate[:, None].float())  # [B, T]
        waves = sinusoid(times, self.time.in_features)
        hidden = self.time((waves - waves.mean(1, keepdim=True)).to(emb.dtype)) * F.silu(condition)[:, None]
        hidden = hidden.flatten(0, 1)
        return FrameTimes(self.out(hidden), self.tilt(hidden).unflatten(1, (2, -1)))


def tilted(x: Tensor, tilt: Tensor) -> Tensor:
    """x [N, C, h, w] plus planes that rise from -1 to 1 along x and along y, times tilt [N, 2, C]."""
    high, wide = (torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype) for size in x.shape[2:])
    along, down = tilt.to(x.dtype)[..., None, None].unbind(1)
    return x + along * wide + down * high[:, None]
