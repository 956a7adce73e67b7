"""`winnow annotate`: planning, the stages of a job, and the executors that run them."""
