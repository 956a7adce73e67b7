"""AdamW whose moments have 8 bits."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from curate.base.extras import install_command
from video_model.errors import RunError
from video_model.optimizers.base import OptimizerSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class AdamW8bit(OptimizerSection):
    """AdamW of bitsandbytes, with moments in blocks of 8 bits (Dettmers et al. 2022): 2 bytes a trained weight. For NVIDIA GPUs."""

    kind: Literal["adamw_8bit"] = "adamw_8bit"
    spreads: ClassVar[bool] = False

    def check(self, device: str) -> None:
        if find_spec("bitsandbytes") is None:
            raise RunError(
                f"optimizer adamw_8bit: bitsandbytes is not installed: {install_command('bitsandbytes')}, or choose "
                "optimizer: {kind: adamw}"
            )
        if device == "cpu":
            raise RunError("optimizer adamw_8bit: needs a GPU, and there is none: choose optimizer: {kind: adamw}")

    def make(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
        from bitsandbytes.optim import AdamW8bit as Quantised

        return Quantised(groups, lr=lr, betas=betas)
