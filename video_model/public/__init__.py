"""Public checkpoints in, diffusers' layout out."""
