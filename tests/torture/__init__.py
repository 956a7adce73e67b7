"""Kills anything at any moment, starts the same command again, and compares: `make torture`."""
