"""A section of a config: typed, frozen, and unknown keys are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base class of all sections: of the config, and of the options of its parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)
