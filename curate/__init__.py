"""Knows video and models: one decode, its observers, and the stages that score the clips found."""
