"""Denoiser, samplers, conditioning and generation."""
