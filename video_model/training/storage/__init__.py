"""Checkpoints, their writing, and runs in stores."""
