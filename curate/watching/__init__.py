"""The single decode of a unit, in a child process, and the clips that it yields."""
