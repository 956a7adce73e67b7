"""What both curation and training need, and nothing of either."""
