"""The paper's model pack: CLIP and the LAION aesthetic head, CoCa, VideoBLIP (or any chat VLM), and an instruct LLM.

Importing these modules is cheap: torch, open_clip and transformers are imported when an adapter is made.
"""
