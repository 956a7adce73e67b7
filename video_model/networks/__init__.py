"""The space-time network and its parts."""
