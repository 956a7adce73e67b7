"""The card of a curated dataset, and its pictures."""
