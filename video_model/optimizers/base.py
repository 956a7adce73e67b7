"""What an optimiser is to a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from curate.base.section import Section

if TYPE_CHECKING:
    from torch.optim import Optimizer


class OptimizerSection(Section):
    """A section of the config, chosen by its field `kind`, and how the optimiser is made.

    Its state is saved by parameter name, so it must be tensors and numbers by parameter, in `Optimizer.state`. spreads:
    whether it works on weights that are spread over workers (fsdp).
    """

    spreads: ClassVar[bool] = True

    def check(self, device: str) -> None:
        """Raise RunError where it cannot be made here, on a device (cpu, cuda): asked before anything else is done."""

    def make(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
        """groups: `params`, and their `weight_decay`. lr is set anew at each step."""
        raise NotImplementedError
