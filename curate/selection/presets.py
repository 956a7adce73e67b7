"""Selections with a name: what a config's `selection:` or `winnow select --preset` may say in place of filters.

A preset of one's own is an object here and an entry of `PRESETS`; the config, the command line's help and its errors
are derived from the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.part import Part

__all__ = ["PRESETS", "Preset", "preset_help", "steps_of"]


@dataclass(frozen=True, eq=False)
class Preset(Part):
    """steps: as a config writes them (see `curate.selection.filters`). source: where they come from, "" for our own."""

    name: str  # type: ignore[misc] # of the object, where other parts are classes
    description: str
    steps: Sequence[Mapping[str, Any]]
    source: str = ""


NONE = Preset("none", "keep every clip", ())

SVD = Preset(
    "svd",
    "the paper's percentiles",
    (
        {"drop_bottom": {"motion_score": 25, "aesthetic_score": 25, "similarity_merged": 50}},
        {"drop_top": {"text_area": 25}},
    ),
    "Blattmann et al. 2023, Stable Video Diffusion, section 3.2 and appendix C: percentiles of the whole dataset",
)

SVD_FINAL = Preset(
    "svd-final",
    "svd, and at most 7% of a picture is text",
    (*SVD.steps, {"max": {"text_area": 0.07}}),
    "Blattmann et al. 2023, appendix C: the rule of the final training set",
)

PRESETS = [SVD, SVD_FINAL, NONE]


def steps_of(name: str, presets: Sequence[Preset]) -> Sequence[Mapping[str, Any]] | None:
    """The steps of a preset; None where none has that name."""
    return next((preset.steps for preset in presets if preset.name == name), None)


def preset_help() -> str:
    """The names, and what each keeps, for the command line."""
    return "a named selection: " + "; ".join(f"{preset.name} ({preset.description})" for preset in PRESETS)
