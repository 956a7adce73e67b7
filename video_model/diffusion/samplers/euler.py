"""Euler's method."""

from video_model.diffusion.schedules import pairs


def euler(denoise, x, sigmas, watch=None):
    """First order; one call a step."""
    for now, then in pairs(sigmas, watch):
        clean = denoise(x, now)
        x = clean + (x - clean) * (then / now)
    return x
