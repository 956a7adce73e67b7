"""Samplers: functions of (denoise, x, sigmas) and nothing else. To add one: a file here, and the function in the list.

`denoise(x, sigma) -> x0` is a denoiser with its condition bound to it; x [B, T, C, h, w] is clean data plus sigmas[0] times
unit noise; sigmas falls to what is left at the end, usually 0; watch(steps done, steps in all) is progress, or None. All of
them solve dx/dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, eq. 3), except DDIM with eta > 0, which adds noise on
the way. A sampler's name in configs and on the command line is the function's. None imports anything heavy at the top, so
that the command line can name them all.
"""

from collections.abc import Callable, Iterable
from typing import Any

from video_model.diffusion.samplers.ddim import ddim
from video_model.diffusion.samplers.dpmpp_2m import dpmpp_2m
from video_model.diffusion.samplers.euler import euler
from video_model.diffusion.samplers.heun import heun

SAMPLERS: list[Callable[..., Any]] = [euler, heun, dpmpp_2m, ddim]


def names_of(samplers: Iterable[Callable[..., Any]] = SAMPLERS) -> list[str]:
    return [sampler.__name__ for sampler in samplers]


__all__ = ["SAMPLERS", "ddim", "dpmpp_2m", "euler", "heun", "names_of"]
