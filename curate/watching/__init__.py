"""The single pass over a unit, in a child process, and the clips that come of it."""
