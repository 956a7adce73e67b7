"""FVD, CLIP-like similarity and other measures of a model."""
