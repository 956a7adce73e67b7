"""Which frames the stills of a clip are: their times are known."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from curate.clip import Clip
from curate.observers import stills as module
from curate.observers.stills import Stills
from curate.stages.pictures import decode
from curate.video.frame import Picture


@dataclass
class Seen:
    """Frame i of a film whose grey level is i, as Stills sees it."""

    index: int
    fps: float = 25.0
    jumped: bool = False
    made: list = field(default_factory=list)

    @property
    def time(self) -> float:
        return self.index / self.fps

    def reduced(self) -> Picture:
        return Picture(np.full((90, 160, 3), self.index % 250, np.uint8))


def clip(start: int, end: int, fps: float = 25.0) -> Clip:
    return Clip(start, end, start / fps, end / fps, start / fps, end / fps)


def kept(count: int, jumps=(), **how) -> Stills:
    stills = Stills(**how)
    for i in range(count):
        stills.see(Seen(i, jumped=i in jumps))
    return stills


def levels(one: Clip) -> list[int]:
    return [round(float(decode(one.values[name]).mean())) for name in ("still_first", "still_middle", "still_last")]


def test_between_hard_cuts_the_first_and_last_still_are_the_very_first_and_last_frame():
    clips = [clip(0, 60), clip(60, 131), clip(131, 200)]
    kept(200, jumps=(60, 131)).fill(clips)
    assert [levels(c)[0] for c in clips] == pytest.approx([0, 60, 131], abs=1)
    assert [levels(c)[2] for c in clips] == pytest.approx([59, 130, 199], abs=1)
    assert clips[1].values["still_times"][0] == 60 / 25 and clips[1].values["still_times"][2] == 130 / 25


def test_elsewhere_they_are_at_most_a_grid_step_inside_and_never_outside():
    clips = [clip(7, 70), clip(85, 160)]
    kept(200).fill(clips)
    for one in clips:
        first, middle, last = one.values["still_times"]
        assert one.start_time <= first <= one.start_time + 0.5
        assert one.end_time - 0.5 - 1 / 25 <= last < one.end_time
        assert abs(middle - (one.start_time + one.end_time) / 2) <= 0.25 + 1 / 25
        assert levels(one) == pytest.approx([t * 25 for t in (first, middle, last)], abs=1)


def test_a_clip_without_a_kept_frame_says_so_and_has_none():
    short = clip(2, 5)
    kept(100).fill([short])
    assert short.values["still_first"] is None and short.values["still_times"] is None
    assert "no picture" in short.errors["stills"]


def test_the_captioner_gets_as_many_frames_as_it_asks_for_evenly_spaced():
    one = clip(0, 100)
    kept(100, captioner_frames=5).fill([one])
    assert [round(float(decode(f).mean())) for f in one.frames] == pytest.approx([0, 25, 50, 74, 99], abs=4)


def test_a_film_of_flashes_and_a_long_one_stay_within_memory(monkeypatch):
    monkeypatch.setattr(module, "RAW_BYTES", 1_000_000)
    monkeypatch.setattr(module, "MAX_GRID_PICTURES", 100)
    stills = kept(2000, jumps=range(2000))
    raw = sum(k.picture.nbytes for k in stills.kept if k.picture)
    assert raw <= 1_000_000 + 160 * 90 * 3
    assert len(stills.kept) < 2000 / 25 * (module.EXACT_PER_SECOND + 3)
    steady = kept(10000)
    assert len(steady.kept) <= 102
    one = clip(0, 10000)
    steady.fill([one])
    assert one.values["still_times"] == [0, pytest.approx(200, abs=4), pytest.approx(399.96)]


def test_stills_are_jpeg_at_the_asked_size():
    one = clip(0, 20)
    kept(20).fill([one])
    assert one.values["still_first"][:2] == b"\xff\xd8" and decode(one.values["still_first"]).shape == (90, 160, 3)
