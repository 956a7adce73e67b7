"""DDIM."""

from video_model.diffusion.schedules import pairs


def ddim(denoise, x, sigmas, watch=None, eta=0.0, generator=None):
    """One call a step; `eta` 0 is Euler's step in these coordinates, 1 draws as much new noise as DDPM (Song et al. 2021).

    With rising sigmas and eta 0 it inverts: clean data to the noise that would give it.
    """
    for now, then in pairs(sigmas, watch):
        clean = denoise(x, now)
        fresh = eta * then * (max(now**2 - then**2, 0.0) / now**2) ** 0.5 if then < now else 0.0
        kept = (then**2 - fresh**2) ** 0.5
        x = clean + (x - clean) * (kept / now)
        if fresh:
            x = x + fresh * _noise(x, generator)
    return x


def _noise(x, generator):
    import torch

    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
