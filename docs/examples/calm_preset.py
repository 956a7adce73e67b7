"""A selection of one's own with a name: `selection: calm` in a config, or `winnow select --preset calm`."""

from curate.plugin import Preset

CALM = Preset("calm", "little motion, no text", ({"max": {"motion_score": 20, "text_area": 0.01}},))

PARTS = [CALM]
