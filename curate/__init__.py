"""Video and models: a single decode with observers, and the stages that score the clips found."""
