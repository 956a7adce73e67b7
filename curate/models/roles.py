"""The places in a config where a model is chosen. Adapters name the roles that they can fill, stages those that they use."""

from curate.pipeline_part import Role

TEXT = Role("text", "text_area", argument="detector", default="easyocr", optional=False)
EMBEDDER = Role(
    "embedder", "image_embedding", default="conse", note="null: no embedding, and no similarity of captions"
)
AESTHETIC = Role("appearance.aesthetic", "aesthetic_score")
QUALITY = Role("appearance.quality", "technical_quality", default="brisque")
NSFW = Role("appearance.nsfw", "nsfw_score", default="open_nsfw")
FRAME_CAPTION = Role("captions.frame", "caption_frame", default="tags")
VIDEO_CAPTION = Role("captions.video", "caption_video", default="facts")
MERGE = Role("captions.merge", "caption_merged", argument="merger", default="smollm2")
