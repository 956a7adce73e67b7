"""Labels: good or bad, with a note; and how filters agree with them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.inspector.panel import Panel, place_of
from pipelines.inspector.panels.labels.agreement import agreement
from pipelines.inspector.requests import ClipId, Filters


class GivenLabel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    clip: ClipId
    label: Literal["good", "bad"] | None = None
    note: str | None = Field(None, max_length=2000)


class LabelAgreement(Panel):
    name, title, area, button = "labels", "Labels and filters", "dialog", "Labels"

    def routes(self):
        return {"POST /api/label": self.label, "POST /api/agreement": self.agreement}

    def label(self, given: GivenLabel) -> dict[str, Any]:
        place = place_of(self.loaded(), given.clip)
        stored = self.session.label(place, given.label, given.note)
        return {"label": stored.label, "note": stored.note}

    def agreement(self, asked: Filters) -> dict[str, Any]:
        loaded = self.loaded()
        return agreement(loaded.columns, asked.choice(loaded))
