"""Steps that read source files, in a child process: the single decode, and the frames for a video captioner.

The file is compared with its unit before and after: a unit whose file was modified is lost, and planned again.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from curate.base.child import CHANGED, UNSEEN, Lost
from curate.clip import Unit
from curate.video.identity import READING, is_readable, same_stamp, stamp
from curate.video.remote import is_remote
from curate.watching.isolation import Isolated, record_loss
from curate.watching.rereading import captioner_frames
from curate.watching.watch import watch
from pipelines.cluster import elsewhere
from pipelines.config import Config

BYTES_A_SECOND = 1_250_000  # of footage: rarely exceeded


def frames_needed(config: Config, stages: Iterable[str]) -> int:
    """How many decoded frames of each clip these stages need: the largest number of any of them."""
    return max((config.parts.stages[name].frames(config) for name in stages), default=0)


FILE_CHANGED = Lost(
    "was written to while it was worked on: wait until it is whole, then run the same command again", CHANGED
)


def file_changed(unit: Unit, now: dict[str, Any] | None = None) -> bool:
    """Whether the file exists and differs from the one that was planned. Of an object only that one is read, so that the
    read says it. now: its stamp, if it is known."""
    if is_remote(unit.video.path):
        return False
    now = now or stamp(unit.video.path)
    planned = unit.facts.get("bytes") is not None and unit.facts.get("modified") is not None
    return planned and now["bytes"] is not None and not same_stamp(unit.facts, now)


def unseen(unit: Unit) -> Lost | None:
    """Why a unit failed that was planned on another machine, if this one does not see its file: that is not the file's fault."""
    if unit.facts.get("bytes") is None or not elsewhere() or is_readable(unit.video.path):
        return None
    return Lost(
        f"the machine {socket.gethostname()} does not see it, or may not read it, unlike the one that planned the job: mount it "
        "there, or name sources by a path or URL that all machines see",
        UNSEEN,
    )


def decode_time_limit(config: Config, unit: Unit) -> float:
    """Time limit of decoding a unit, s: by its footage, estimated from the file's size if the header has no duration."""
    facts = unit.facts
    by_size = (facts.get("bytes") or 0) / unit.count / BYTES_A_SECOND
    pixels = (facts.get("width") or 0) * (facts.get("height") or 0)
    checksum_seconds = (facts.get("bytes") or 0) // READING if unit.index == 0 else 0
    return config.decode.time_limit(max(unit.footage, by_size), pixels) + checksum_seconds


class Pass:
    """The single decode of a unit, in a child process if the config says so."""

    def __init__(self, config: Config) -> None:
        self.config, self.isolated = config, _child(config)

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        for unit in units:
            observers = [name for name in self.config.parts.observers if unit.wants(name)]
            if not observers:
                continue
            bare = [replace(clip, values={}, errors={}, frames=[]) for clip in unit.clips]
            seen = self.watch(replace(unit, clips=bare))
            if seen.status == "lost":
                unit.lost = seen.lost
                unit.lose(seen.error)
                continue
            if unit.clips and seen.status != "ok":  # keep the results of earlier runs
                for clip in unit.clips:
                    clip.errors |= dict.fromkeys(observers, seen.error)
                continue
            if unit.clips:
                _keep_stored(unit, seen, observers)
            for name in ("video", "status", "error", "warnings", "facts", "clips", "seconds"):
                setattr(unit, name, getattr(seen, name))
        return list(units)

    def watch(self, unit: Unit) -> Unit:
        """The unit after its decode; lost if its file changed since it was planned, or during the decode."""
        before = None if is_remote(unit.video.path) else stamp(unit.video.path)
        if file_changed(unit, before):
            return record_loss(unit, FILE_CHANGED)
        options = self.options(unit)
        if self.isolated:
            unit = self.isolated.watch(unit, decode_time_limit(self.config, unit), **options)
        else:
            unit = watch(unit, **options)
        if unit.status == "failed" and (loss := unseen(unit)):
            return record_loss(unit, loss)
        if before is not None and (file_changed(unit, before) or stamp(unit.video.path) != before):
            return record_loss(unit, FILE_CHANGED)
        return unit

    def options(self, unit: Unit) -> dict[str, Any]:
        """Arguments of `watch`: the observers that this unit needs, and those that these need."""
        config, parts = self.config, self.config.parts
        wanted = parts.with_needs(name for name in parts.observers if unit.wants(name))
        sections = {name: getattr(config, name, None) for name in parts.observers if name in wanted}
        return {
            "observers": {name: section.model_dump() if section else {} for name, section in sections.items()},
            "frames_per_clip": frames_needed(config, (name for name in parts.stages if unit.wants(name))),
            "decode": {"threads": config.decode.threads, "max_pixels": config.decode.max_pixels},
            "plugins": config.plugins,
        }


def _keep_stored(stored: Unit, seen: Unit, observers: Sequence[str]) -> None:
    """Add the results of other stages, and the counts of the first decode, to a repeated decode."""
    for clip, old in zip(seen.clips, stored.clips, strict=True):
        clip.values = old.values | clip.values
        clip.errors = {key: reason for key, reason in old.errors.items() if key not in observers} | clip.errors
    seen.facts["frames_decoded"] += stored.facts.get("frames_decoded") or 0
    seen.seconds = {
        **stored.seconds,
        **seen.seconds,
        "decode": seen.seconds["decode"] + stored.seconds.get("decode", 0.0),
    }


class Frames:
    """Reads the frames for a video captioner, of units that were decoded in an earlier run."""

    def __init__(self, config: Config) -> None:
        self.config, self.isolated = config, _child(config)

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        stages = self.config.parts.stages
        for unit in units:
            count = frames_needed(self.config, (name for name in stages if unit.wants(name)))
            if not count or any(clip.frames for clip in unit.clips):
                continue
            options = {"count": count, "size": self.config.stills.size}
            if file_changed(unit):
                record_loss(unit, FILE_CHANGED)
            elif self.isolated:
                self.isolated.frames(unit, decode_time_limit(self.config, unit), **options)
            else:
                captioner_frames(unit, **options)
            if any("frames" in clip.errors for clip in unit.clips) and (loss := unseen(unit)):
                record_loss(unit, loss)
        return list(units)


def _child(config: Config) -> Isolated | None:
    decode = config.decode
    return Isolated(timeout=decode.timeout_seconds, memory_gb=decode.memory_gb) if decode.isolate else None
