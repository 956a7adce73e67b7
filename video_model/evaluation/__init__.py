"""FVD, CLIP-like similarity and what else says how good a model is."""
