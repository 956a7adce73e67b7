"""Filters, and what a list of them keeps."""
