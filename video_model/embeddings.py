"""What residual blocks are told beside the noise level: the text as one vector, and a frame's place in its clip.

No public network has these; what they are for is learning sooner what the words of a caption mean.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_model.layers import embedding_mlp, sinusoid, zero


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
        count = there.sum(1).clamp(min=1)
        words = (self.mlp(self.norm(states)) * there).sum(1) / count.sqrt()
        return self.mlp(self.norm(states.sum(1) / count)) + words


class FrameEmbedding(nn.Module):
    """What to tell of frame 0, 1, ... T - 1: [B, T, E]; nothing, when fresh, and nothing ever of a single frame.

    Features of the index, less their mean over the frames, are multiplied with all else that is told: "left" means another
    place in each frame. Two things make motion learnable early. Without the mean, what is common to the frames of a clip
    (where its shape happens to be) does not reach these weights as noise. And the text is read here once more: what the
    image network makes of it holds no direction, as stills show none.
    """

    def __init__(self, width: int, emb: int, context: int | None):
        super().__init__()
        self.norm, self.told = nn.LayerNorm(emb), nn.Linear(emb, emb)
        self.index = nn.Linear(width, emb, bias=False)
        self.text = PooledText(context, emb) if context else None
        self.out = zero(nn.Linear(emb, emb, bias=False))

    def forward(self, emb: Tensor, frames: int, states: Tensor | None, mask: Tensor | None) -> Tensor:
        told = self.told(self.norm(emb))
        if self.text is not None and states is not None:
            told = told + self.text(states, mask)
        index = sinusoid(torch.arange(frames, device=emb.device), self.index.in_features)
        index = self.index((index - index.mean(0)).to(emb.dtype))
        return self.out(index * F.silu(told)[:, None])
