"""What the page asks with: filters as it writes them, and a clip's id. Anything else in a request is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.selection.filters import Filter
from pipelines.inspector.data.choice import Choice
from pipelines.inspector.data.loaded import Loaded

MAX_FILTERS = 40
ClipId = Annotated[str, Field(max_length=300)]


class AskedFilter(BaseModel):
    """A filter as the page writes it."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["where", "min", "max", "drop_bottom", "drop_top"]
    column: str = Field("", max_length=200)
    amount: float = Field(0.0, allow_inf_nan=False)
    sql: str = Field("", max_length=5000)


class Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    filters: list[AskedFilter] = Field([], max_length=MAX_FILTERS)

    def parsed(self) -> list[Filter]:
        return [Filter(f.kind, f.column, f.amount, f.sql) for f in self.filters]

    def choice(self, loaded: Loaded) -> Choice:
        """What they keep."""
        return loaded.chooser.choose(self.parsed())


class OneClip(Filters):
    clip: ClipId
