"""Heun's method."""

from video_model.diffusion.schedules import pairs


def heun(denoise, x, sigmas, watch=None):
    """Second order; two calls a step, one for a step to 0 (Karras et al. 2022, algorithm 1)."""
    for now, then in pairs(sigmas, watch):
        slope = (x - denoise(x, now)) / now
        ahead = x + (then - now) * slope
        if then > 0:
            slope = (slope + (ahead - denoise(ahead, then)) / then) / 2
            ahead = x + (then - now) * slope
        x = ahead
    return x
