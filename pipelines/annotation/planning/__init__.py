"""Inputs to tasks: what is recorded, what changed, what files are opened, in the order of the inputs."""
