"""DPM-Solver++(2M)."""

from video_model.diffusion.schedules import pairs


def dpmpp_2m(denoise, x, sigmas, watch=None):
    """Second order by the last step's result; one call a step (Lu et al. 2022, algorithm 2)."""
    before, length_before = None, 0.0
    for now, then in pairs(sigmas, watch):
        clean = denoise(x, now)
        target = clean
        length = _log(now) - _log(then) if then > 0 else 0.0
        if then > 0 and before is not None:
            ratio = length / (2 * length_before)
            target = (1 + ratio) * clean - ratio * before
        x = target + (x - target) * (then / now)
        before, length_before = clean, length
    return x


def _log(sigma: float) -> float:
    import torch

    return float(torch.tensor(sigma, dtype=torch.float64).log())
