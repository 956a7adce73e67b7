"""Edited films with known transitions, drawn out of free pictures: what the judge of shots is trained on."""
