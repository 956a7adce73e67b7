"""`winnow ...`: the command line."""
