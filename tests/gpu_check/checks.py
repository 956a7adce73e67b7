"""All checks, by worth: those of a group share a process, so that a start is paid for once and an error of CUDA ends no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from tests.gpu_check.rows import Row
from tests.gpu_check.setting import Setting


@dataclass(frozen=True)
class Check:
    """A function of a module, and the seconds it may take."""

    name: str
    module: str
    seconds: float

    def load(self) -> Callable[[Setting], Iterator[Row]]:
        return getattr(import_module(self.module), self.name)


HERE = "tests.gpu_check"
START = 25.0  # of a group's process: imports, CUDA
GROUPS = [
    [
        Check("card", f"{HERE}.card", 20),
        Check("steps", f"{HERE}.network", 110),
        Check("probe", f"{HERE}.network", 40),
        Check("lora", f"{HERE}.network", 40),
    ],
    [
        Check("samples", f"{HERE}.tiny", 40),
        Check("devices", f"{HERE}.tiny", 40),
        Check("optimisers", f"{HERE}.tiny", 30),
    ],
    [Check("compiling", f"{HERE}.compiling", 120)],
    [Check("spreading", f"{HERE}.compiling", 50)],
    [Check("annotating", f"{HERE}.jobs", 90)],
    [Check("training", f"{HERE}.jobs", 90)],
]
CHECKS = {check.name: check for group in GROUPS for check in group}
