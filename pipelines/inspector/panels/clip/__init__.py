"""One part of the page."""
