"""The overview as one HTML file."""
