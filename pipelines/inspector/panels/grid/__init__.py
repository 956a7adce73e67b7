"""Clips: kept or dropped, sorted, found, and on both sides of a threshold."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException
from pydantic import Field

from pipelines.inspector.panel import Panel
from pipelines.inspector.requests import MAX_FILTERS, Filters


class NearThreshold(Filters):
    """The clips closest to the threshold of a filter. others: only those that all other filters keep."""

    index: int = Field(ge=0, le=MAX_FILTERS)
    count: int = Field(12, ge=1, le=120)
    others: bool = True


class ClipGrid(Panel):
    name, title, area = "grid", "Clips", "right"

    def routes(self):
        return {"POST /api/near": self.near}

    def near(self, asked: NearThreshold) -> dict[str, Any]:
        loaded = self.loaded()
        choice = asked.choice(loaded)
        if asked.index >= len(choice.verdicts):
            raise HTTPException(404, "no such filter")
        return loaded.listing.near(choice, asked.index, asked.count, asked.others)
