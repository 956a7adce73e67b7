"""Latents: built once, cached, batched."""
