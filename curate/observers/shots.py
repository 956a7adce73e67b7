"""Shots: the observer that finds the clips of a unit, with the detector that the config names."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from curate.base.section import Section
from curate.clip import Clip, Column, Unit
from curate.models.transnet import TransNet
from curate.observers.detectors import DETECTORS
from curate.observers.dividing import KnownClips, clips_of, split_at, transitions_of
from curate.observers.listed import ListedSpans
from curate.observers.observer import Observer
from curate.observers.transitions import weights_bytes, weights_path
from curate.video.frame import Frame
from curate.video.timeline import Timeline
from curate.weights import Weights

__all__ = ["ShotOptions", "Shots"]


class ShotOptions(Section):
    detector: Literal[tuple(DETECTORS)] = Field(  # type: ignore[valid-type]
        "cascade", description="whole: a file is one shot, for footage that is cut already"
    )
    min_seconds: float = Field(0.2, gt=0, description="shorter shots become no clips; a selection can require more")
    max_seconds: float = Field(10.0, gt=0, description="longer shots are divided evenly")
    jumps: bool = Field(
        True, description="cuts within a scene end a shot too: a clip that holds one shows a leap in time"
    )

    @model_validator(mode="after")
    def _check_jumps(self) -> ShotOptions:
        if not self.jumps and self.detector == "transnetv2":
            raise ValueError("jumps: false needs detector: cascade; transnetv2 cannot tell jumps from other cuts")
        return self


class Shots(Observer):
    """The clips of the shots that a detector finds between transitions; or the clips that are recorded or listed already."""

    name = "shots"
    facts = (
        Column(
            "transitions",
            pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("kind", pa.string())])),
            "spans between shots that belong to no clip; a cut has end == start, and so have the places where pictures are "
            "missing (gap), the clock steps back (clock) or the size changes (size)",
            "s",
        ),
    )
    Options = ShotOptions
    also = ("decode.unit_seconds",)

    def __init__(
        self, *, detector: str = "cascade", min_seconds: float = 0.2, max_seconds: float = 10.0, jumps: bool = True
    ) -> None:
        self.detector = DETECTORS[detector](jumps=jumps)
        self.limits = {"min_seconds": min_seconds, "max_seconds": max_seconds}

    @classmethod
    def create(cls, options: ShotOptions, unit: Unit, frames: int) -> Observer:
        """Without a detector where the clips are recorded already, or a source list names them."""
        if unit.clips:
            return KnownClips(unit.clips)
        return ListedSpans(unit.video.spans) if unit.video.spans else cls(**cls.arguments(options))

    @classmethod
    def weights(cls, section: ShotOptions) -> Sequence[Weights]:
        if section.detector == "transnetv2":
            return TransNet.weights()
        if section.detector != "cascade":
            return ()
        weights = weights_path()
        digest = sha256(weights_bytes()).hexdigest()
        return [
            Weights("shots", "judge of transitions", weights, "in the package", "pip install winnow", sha256=digest)
        ]

    @classmethod
    def kind(cls, section: ShotOptions) -> str:
        return section.detector

    def see(self, frame: Frame) -> None:
        self.detector.see(frame)
        frame.jumped |= self.detector.jumped

    def clips(self, timeline: Timeline) -> list[Clip]:
        shots = split_at(self.detector.finish(), sorted(timeline.breaks))
        return clips_of(shots, timeline.times, timeline.ends, **self.limits)

    def finish(self, unit: Unit, timeline: Timeline) -> None:
        unit.facts["transitions"] = transitions_of(self.detector.transitions, timeline)
