"""Spans of a source list become clips: their frames, their captions, and warnings for those that cannot."""

from curate.clip import Listed, Unit, Video
from curate.observers.listed import ListedSpans, clips_of_spans
from curate.video.units import plan
from curate.watching.watch import watch
from pipelines.demo import write
from tests.footage import pan

TIMES = [100 + i / 25 for i in range(100)]  # a clock that starts late
OPTIONS = {
    "observers": {
        "shots": {"detector": "cascade", "min_seconds": 1.0, "max_seconds": 1.5},
        "motion": {"fps": 5.0},
        "stills": {},
    },
    "decode": {},
}


def clips(*spans, times=TIMES):
    ends = [*times[1:], times[-1] + 0.04]
    found, warnings = clips_of_spans([Listed(*span) for span in spans], times, ends, {})
    return [(clip.start_frame, clip.end_frame) for clip in found], warnings


def test_frames_shown_within_a_span_are_its_clip_counted_from_the_first_picture():
    assert clips((0, 1), (1, 2), (3.5, None), (None, 0.04)) == ([(0, 1), (0, 25), (25, 50), (88, 100)], [])
    assert clips((0.01, 0.09)) == ([(1, 3)], [])  # snapped to frames that begin in it
    thirds = [i * 1001 / 30000 for i in range(60)]
    assert clips((0.0, 1.001), (1.001, 2.002), times=thirds) == ([(0, 30), (30, 60)], [])
    assert clips((0.0, 0.334), (0.334, 0.667), times=thirds) == ([(0, 10), (10, 20)], [])  # rounded to milliseconds
    assert clips((None, None, 10, 20), (None, None, 90, None)) == ([(10, 20), (90, 100)], [])


def test_what_is_no_clip_is_said():
    spans = [(2, 1), (1, 1), (9, 10), (3, 8), (3.9, 4.05), (0.001, 0.03), (-1, 1), (None, None, 90, 200)]
    found, warnings = clips(*spans)
    assert found == [(75, 100), (90, 100), (98, 100)]
    assert [text.split(": ", 1)[1] for text in warnings] == [
        "the span 2 to 1 s is empty: its end must be after its start: no clip",
        "the span 1 to 1 s is empty: its end must be after its start: no clip",
        "the span 9 to 10 s holds no picture (the file ends at 4.00 s, after 100 frames): no clip",
        "the span 3 to 8 s ends with the file, at 4.00 s, after 100 frames",
        "the span 0.001 to 0.03 s holds no picture (no frame begins in it): no clip",
        "the span -1 to 1 s begins before the file does: no clip",
        "the span frames 90 to 200 ends with the file, at 4.00 s, after 100 frames",
    ]
    _, warnings = clips(*[(9, 10)] * 5, *[(8 + i, 20) for i in range(40)])
    assert len(warnings) == 21 and warnings[-1].startswith("and 25 other spans")
    assert clips_of_spans([Listed(where="l.csv: entry 3", problem="'x' is no time")], TIMES, TIMES, {}) == (
        [], ["l.csv: entry 3: 'x' is no time: no clip"],
    )  # fmt: skip


def test_a_span_is_parted_only_where_the_recording_was_interrupted_and_that_is_said():
    paused = [*TIMES[:50], *(time + 60 for time in TIMES[50:])]
    ends = [*(time + 0.04 for time in paused)]
    spans = [Listed(1, 63, captions=["a"], where="l"), Listed(0, 1.5)]
    found, warnings = clips_of_spans(spans, paused, ends, {50: "gap"})
    assert [(clip.start_frame, clip.end_frame, clip.captions) for clip in found] == [
        (0, 38, []), (25, 50, ["a"]), (50, 75, ["a"]),
    ]  # fmt: skip
    assert abs(found[1].end_time - found[1].start_time - 1) < 1e-9  # of its pictures
    assert warnings == [
        "l: within the span 1 to 63 s pictures are missing, at 62.00 s: it becomes 2 clips with its captions"
    ]


def test_spans_with_the_same_frames_are_one_clip_with_all_captions():
    spans = [
        Listed(0, 1, captions=["a"], columns={"n": 1}),
        Listed(0, 1.0002, captions=["b"], columns={"n": 2, "m": 3}),
        Listed(0, 2, captions=["c"]),
    ]
    found, _ = clips_of_spans(spans, TIMES, TIMES, {})
    assert [(clip.captions, clip.columns) for clip in found] == [(["a", "b"], {"n": 1, "m": 3}), (["c"], {})]
    unit = Unit(Video("/v.mp4", "f" * 16))
    assert [unit.clip_id(clip) for clip in found] == [f"{'f' * 16}-00000000-00000025", f"{'f' * 16}-00000000-00000050"]
    assert Unit.unpack(Unit(Video("/v.mp4", spans=spans), clips=found).pack()).clips == found


def test_no_cut_divides_a_span_and_its_stills_are_its_first_and_last_frames(tmp_path):
    path = tmp_path / "v.mp4"
    write(path, [*pan(40, 2, seed=1), *pan(40, 4, seed=2)])
    (unit,) = plan(Video(str(path), spans=[Listed(0.2, 3.0), Listed(1.0, 1.2), Listed(0.4, 3.2, captions=["x"])]))
    watch(unit, **OPTIONS)
    assert [(clip.start_frame, clip.end_frame, clip.bounds) for clip in unit.clips] == [
        (5, 75, "list"), (10, 80, "list"), (25, 30, "list"),
    ]  # fmt: skip
    for clip in unit.clips:
        first, _, last = clip.values["still_times"]
        assert abs(first - clip.start_frame / 25) < 1e-3 and abs(last - (clip.end_frame - 1) / 25) < 1e-3
        assert (clip.shot_start_time, clip.shot_end_time) == (clip.start_time, clip.end_time)
    assert unit.clips[0].values["motion_score"] > 1 and not unit.warnings and unit.facts["transitions"] == []


def test_a_detector_looks_at_nothing():
    class Frame:
        def __init__(self, time):
            self.time, self.jumped = time, False

    seen, jumps = ListedSpans([Listed(0.04, 0.12), Listed(start_frame=5)]), []
    for i in range(8):
        frame = Frame(7 + i / 25)
        seen.see(frame)
        jumps.append(frame.jumped)
    assert jumps == [False, True, False, True, False, True, False, False]
