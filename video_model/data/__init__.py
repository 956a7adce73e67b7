"""Curated shards, read: index, buckets, excerpts, decoding."""
