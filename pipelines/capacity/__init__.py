"""What machines make of a config: pools, workers, and expected footage hours per hour, before anything runs."""
