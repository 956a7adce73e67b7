"""Jobs made of `curate`: configs, executors, datasets on disk, the command line."""
