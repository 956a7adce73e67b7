"""What a training run will take, before there is one: memory by part, time, disk. Nothing is allocated to know it."""
