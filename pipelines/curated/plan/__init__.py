"""Which clips go where: made once, on disk, and read by all who cut."""
