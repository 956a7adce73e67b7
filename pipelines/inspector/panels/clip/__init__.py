"""One clip: player, stills, captions, errors, every score with its standing, and its place in the whole film."""

from __future__ import annotations

from typing import Any

from pipelines.inspector.panel import Panel, place_of
from pipelines.inspector.panels.clip.film import film, one_clip
from pipelines.inspector.requests import OneClip


class ClipDialog(Panel):
    name, title, area = "clip", "One clip", "dialog"

    def routes(self):
        return {"POST /api/clip": self.clip, "POST /api/film": self.film}

    def clip(self, asked: OneClip) -> dict[str, Any]:
        loaded = self.loaded()
        return one_clip(loaded.columns, loaded.media, asked.choice(loaded), place_of(loaded, asked.clip))

    def film(self, asked: OneClip) -> dict[str, Any]:
        loaded = self.loaded()
        (row,) = loaded.columns.rows([place_of(loaded, asked.clip)], ["video_id"])
        return film(loaded.columns, asked.choice(loaded), row["video_id"])
