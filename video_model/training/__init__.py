"""The three stages of training, their checkpoints and journal."""
