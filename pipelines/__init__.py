"""Composes what `curate` offers: configs, executors, datasets on disk, the command line."""
