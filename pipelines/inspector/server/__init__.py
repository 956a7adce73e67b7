"""The server: who may ask, what is loaded, and where it listens."""
