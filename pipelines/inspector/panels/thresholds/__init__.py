"""Thresholds: a histogram per score with a handle at either end, and stills of what low and high look like."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException, Query

from pipelines.inspector.data.loaded import SLOTS, strip
from pipelines.inspector.panel import Panel


class Thresholds(Panel):
    name, title, area = "thresholds", "Thresholds", "left"

    def routes(self):
        return {"GET /api/strip": self.stills_along}

    def stills_along(self, column: str = Query(max_length=200)) -> dict[str, Any]:
        loaded = self.loaded()
        if column not in loaded.chooser.axes:
            raise HTTPException(404, "no such score")
        return {"clips": strip(loaded.columns, loaded.chooser, column, SLOTS)}
