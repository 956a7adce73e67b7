"""A synthetic world whose answers are known."""
