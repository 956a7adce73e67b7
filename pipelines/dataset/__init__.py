"""The annotated dataset: tables, commits, labels, statistics."""
