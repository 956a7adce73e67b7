"""What a run tells of itself while it works, and what another machine reads of it."""
