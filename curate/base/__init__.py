"""What both curate and video_model need; it imports nothing else of curate."""
