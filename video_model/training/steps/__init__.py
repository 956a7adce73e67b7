"""What one step of training does: the rows it sees, the weights it changes, the workers that share it."""
