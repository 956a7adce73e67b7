"""Workers of Ray that cut and write, the process that talks to Ray, and the command's end of the line to it."""
