"""`winnow annotate`: planning, the list of stages, and the executors that run it."""
