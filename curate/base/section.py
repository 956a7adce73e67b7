"""A section of a config: typed, frozen, and unknown keys are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """The base of every section, so that a part's options and the config that holds them behave alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)
