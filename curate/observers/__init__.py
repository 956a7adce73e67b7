"""What watches the frames of a decode go by: shots, motion, stills."""
