"""Take away: the selection as a command, as YAML, or written into a folder while the page looks on."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from curate.base.store import join
from curate.selection.filters import Filter, SelectionError
from pipelines.inspector.data.loaded import Loaded
from pipelines.inspector.data.session import Session
from pipelines.inspector.panel import Panel
from pipelines.inspector.panels.take import taking
from pipelines.inspector.requests import Filters


class NamedSelection(Filters):
    """name: of the folder to make, beside the dataset."""

    name: str = Field("curated", max_length=200)


class TakeAway(Panel):
    name, title, area, button = "take", "Take the selection away", "dialog", "Take away"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.taker = taking.Taker()

    def routes(self):
        return {
            "POST /api/take": self.take,
            "POST /api/select": self.select,
            "GET /api/select": self.selecting,
            "POST /api/select/stop": self.stop,
        }

    def take(self, asked: NamedSelection) -> dict[str, Any]:
        loaded = self.loaded()
        filters, wrong = _taken(loaded, asked)
        out = join(loaded.inspected.beside, asked.name)
        annotated = loaded.inspected.kind == "annotated"
        page_order = [f for f in asked.parsed() if f in filters] if annotated else filters
        return {
            "command": taking.command(loaded.inspected.annotated, out, filters, len(wrong)),
            "yaml": taking.as_yaml(page_order, len(wrong)),
            "left_out": wrong,
            "out": out,
        }

    def select(self, asked: NamedSelection) -> dict[str, Any]:
        loaded = self.loaded()
        filters, wrong = _taken(loaded, asked)
        if wrong:
            raise SelectionError(f"not written, as a filter cannot be applied: {wrong[0]}: fix it, or turn it off")
        return self.taker.start(loaded.inspected, asked.name, filters)

    def selecting(self) -> dict[str, Any]:
        return self.taker.state

    def stop(self) -> dict[str, Any]:
        return self.taker.stop()


def _taken(loaded: Loaded, asked: Filters) -> tuple[list[Filter], list[str]]:
    """The filters for `winnow select`, and why others cannot be applied."""
    verdicts = asked.choice(loaded).verdicts
    sound = [v for v in verdicts if v.error is None]
    filters = taking.asked_of(loaded.inspected, [v.filter for v in sound], [v.threshold for v in sound])
    return filters, [v.error for v in verdicts if v.error is not None]
