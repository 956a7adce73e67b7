"""Stages: callables from units to units that fill columns of their clips."""
