"""Opening files, their clocks, splitting them into units, and decoding their frames."""
