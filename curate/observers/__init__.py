"""Observers of the decoded frames: shots, motion, stills."""
