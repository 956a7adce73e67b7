"""`python -m video_model.world OUT`."""

from video_model.world.world import main

main()
