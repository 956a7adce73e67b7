"""`winnow select`: the clips that a selection keeps, with their bytes."""
