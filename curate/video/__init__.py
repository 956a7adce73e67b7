"""A file, its clock and its frames: opened, planned in units, decoded."""
