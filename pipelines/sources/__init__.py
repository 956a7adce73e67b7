"""What a job is given: folders, lists, spans."""
