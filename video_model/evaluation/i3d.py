"""I3D: Inception-v1 inflated to three dimensions (Carreira & Zisserman 2017, arXiv 1705.07750), for Frechet video distance.

Parameter names are those of the widespread PyTorch port (Conv3d_1a_7x7.conv3d.weight, Mixed_3b.b1a.bn.weight, ...,
logits.conv3d.bias), so that its Kinetics weights load once they are stored as safetensors. Padding is TensorFlow's SAME.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curate.base.packaged import WeightsMissing
from video_model.errors import first_line

MIXED = {  # in, 1x1, reduce, 3x3, reduce, 3x3 (5x5 in the 2-D network), after the pooling
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
POOLED_BEFORE = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
LEAST_FRAMES, SIDE = 9, 224  # frames that leave two after the strides, as the last pooling wants; px


class I3D(nn.Module):
    """Videos [N, 3, T, 224, 224] in [-1, 1], T >= 9, to class logits [N, classes], averaged over time."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit3D(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        for name, widths in MIXED.items():
            self.add_module(name, Mixed(*widths))
        self.logits = Unit3D(1024, classes, 1, bare=True)

    def features(self, videos: Tensor) -> Tensor:
        """The last block's output, [N, 1024, T/8, 7, 7]."""
        x = pool_same(self.Conv3d_1a_7x7(videos), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in MIXED:
            if name in POOLED_BEFORE:
                x = pool_same(x, *POOLED_BEFORE[name])
            x = getattr(self, name)(x)
        return x

    def forward(self, videos: Tensor) -> Tensor:
        return self.logits(F.avg_pool3d(self.features(videos), (2, 7, 7), stride=1)).mean(dim=(2, 3, 4))


class Unit3D(nn.Module):
    """Convolution padded as SAME, batch norm, ReLU; bare: with a bias instead of the latter two."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bare: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=bare)
        self.bn = None if bare else nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Mixed(nn.Module):
    """An Inception block: four branches side by side, their channels concatenated."""

    def __init__(self, inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0 = Unit3D(inputs, b0, 1)
        self.b1a, self.b1b = Unit3D(inputs, b1a, 1), Unit3D(b1a, b1b, 3)
        self.b2a, self.b2b = Unit3D(inputs, b2a, 1), Unit3D(b2a, b2b, 3)
        self.b3b = Unit3D(inputs, b3b, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


def load_i3d(file: Path | str) -> I3D:
    """I3D with the weights of a safetensors file; the number of classes is read off it. Raises WeightsMissing."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    fix = "give the weights of the usual PyTorch I3D, stored as safetensors"
    try:
        state = load_file(Path(file))
        network = I3D(classes=len(state["logits.conv3d.bias"]))
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except (OSError, SafetensorError) as error:
        raise WeightsMissing("I3D", f"{file} cannot be read ({first_line(error)})", fix) from error
    except KeyError as error:
        raise WeightsMissing("I3D", f"{file} has no {error.args[0]}", fix) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsMissing("I3D", f"{file} is of another network ({reason})", fix) from error
    return network.eval()


def pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around [N, C, T, H, W] so that ceil(size / stride) outputs fit, the odd one at the end."""
    padding: list[int] = []
    for size, width, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)


def pool_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)  # inputs are >= 0, so zeros never win
