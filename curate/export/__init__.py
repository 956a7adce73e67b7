"""What is kept is cut out of its source: copied packet by packet, or decoded and encoded again."""
