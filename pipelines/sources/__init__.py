"""Sources of a job: files, folders, lists, spans."""
