"""Files whose times are there but wrong: presentation times in the order of decoding, repeated times, times off the grid."""

import io
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from curate.clip import Video
from curate.export.encode import ClipEncoder
from curate.export.extract import extract
from curate.export.span import ClipForm, Span, span_of
from curate.video.clock import Clock
from curate.video.decode import probe
from curate.video.units import plan
from tests.curate.odd_clocks import RATE, film, levels, numbers, retimed, watched

FRAMES = 60


def unordered(path, source):
    """A file with B-frames whose presentation times were written in decode order, as muxers do that know of no reordering."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for place, packet in enumerate(packet for packet in given.demux(stream) if packet.size):
            packet.pts = packet.dts = place * 3600
            packet.time_base, packet.duration, packet.stream = Fraction(1, 90_000), 3600, copy
            out.mux(packet)
    return path


def test_presentation_times_in_decode_order_are_no_clock_that_steps_back(tmp_path):
    options = {"bf": "3", "g": "30", "x264-params": "b-adapt=0:scenecut=0"}
    source = film(tmp_path / "a.mp4", range(FRAMES), options=options)
    path = unordered(tmp_path / "b.mp4", source)
    (unit,) = watched(path)
    assert [(clip.start_frame, clip.end_frame) for clip in unit.clips] == [(0, FRAMES)]
    assert unit.facts["clock"] == "counted" and unit.facts["transitions"] == []
    assert unit.facts["duration"] == pytest.approx(FRAMES / RATE, abs=0.2)
    assert unit.warnings[0].startswith("presentation times are out of order from 0.") and "decoding" in unit.warnings[0]
    made = extract(str(path), span_of(unit, unit.clips[0]))
    assert made.how == "transcode" and numbers(made.bytes, range(FRAMES)) == numbers(source, range(FRAMES))


def test_a_repeated_time_is_guessed_and_bounds_nothing():
    clock = Clock(0.04)
    mapped = [clock(time) for time in (0.0, 0.04, 0.04, 0.12, 0.16, 0.16)]
    assert mapped == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16, 0.2])
    assert clock.repaired == 2 and not clock.turns and not clock.breaks and not clock.sound


def test_all_times_equal_is_the_usual_rate():
    clock = Clock(0.04)
    assert [clock(0.0) for _ in range(5)] == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])
    assert not clock.breaks


def test_what_was_guessed_ahead_of_the_clock_is_no_step_back():
    clock = Clock(0.04)
    mapped = [clock(time) for time in (0.0, 0.04, None, None, 0.09, 0.13, 0.17, 0.21)]
    assert all(a < b for a, b in pairwise(mapped)) and not clock.breaks and mapped[-1] < 0.32


def test_decoding_times_step_back_too_where_two_recordings_are_joined():
    clock = Clock(0.04)
    for place in range(30):
        clock(1 + place * 0.04, 1 + place * 0.04)
    for place in range(30):  # the second begins 0.08 s before the first ends
        clock(2.08 + place * 0.04, 2.08 + place * 0.04)
    assert clock.breaks == [30] and clock.decoding_from is None


def test_guessed_times_between_the_ticks_of_a_coarse_clock_can_be_written(tmp_path):
    path = tmp_path / "a.avi"  # a tick for each frame
    film(path, range(30), options={"bf": "0"})
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        encoder = ClipEncoder(stream, ClipForm())
        times = [place * 0.013 for place in range(30)]
        for frame, time in zip(source.decode(stream), times, strict=True):
            encoder.add(frame, time, time + 0.013)
        made = encoder.finish(Span(0, 30, 0.0, 0.39), 0.0, 0.39, "")
    assert len(list(levels(made.bytes))) == 30


@pytest.mark.parametrize("last", [0.04, 0.12])
def test_the_last_frame_of_a_transcode_is_shown_as_long_as_its_row_says(tmp_path, last):
    source = film(tmp_path / "a.mp4", range(25))
    with av.open(str(source)) as given:
        stream = given.streams.video[0]
        encoder = ClipEncoder(stream, ClipForm())
        times, clock = [], 0.0
        for place in range(25):
            times.append(clock)
            clock += 0.06 if place % 2 else 0.04
        ends = [*times[1:], times[-1] + last]
        for frame, time, end in zip(given.decode(stream), times, ends, strict=True):
            encoder.add(frame, time, end)
        made = encoder.finish(Span(0, 25, 0.0, ends[-1]), 0.0, ends[-1], "")
    with av.open(io.BytesIO(made.bytes)) as container:
        video = container.streams.video[0]
        assert float(video.duration * video.time_base) == pytest.approx(ends[-1], abs=0.002)


@pytest.mark.parametrize(("length", "frames"), [(1.667, 20), (1.6664, 20), (1.67, 21)])
def test_a_rounded_end_asks_for_no_further_frame_at_a_fixed_rate(tmp_path, length, frames):
    source = film(tmp_path / "a.mp4", range(25))
    with av.open(str(source)) as given:
        stream = given.streams.video[0]
        encoder = ClipEncoder(stream, ClipForm(fps=12))
        ends = [(place + 1) * length / 25 for place in range(25)]
        for frame, time, end in zip(given.decode(stream), [0.0, *ends], ends, strict=False):
            encoder.add(frame, time, end)
        assert encoder.finish(Span(0, 25, 0.0, length), 0.0, length, "").num_frames == frames


def test_lost_transport_packets_are_told(tmp_path):
    path = tmp_path / "a.ts"
    film(path, range(FRAMES), textured=True, size=(320, 240), options={"bf": "0", "crf": "1"})
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    middle = len(packets) // 2
    path.write_bytes(b"".join(packets[:middle] + packets[middle + 3 :]))
    (unit,) = watched(path)
    assert any("counter of the file's packets jumps" in warning for warning in unit.warnings)


def test_packed_b_frames_are_not_divided_into_units(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=RATE, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for place in range(100):
            picture = np.random.default_rng(place).integers(0, 255, (48, 64, 3)).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    data = path.read_bytes()
    assert len(plan(Video(str(path)), unit_seconds=1.0)) == 4
    at = data.index(b"00dc", data.index(b"movi") + 40)
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    assert size > 19
    changed = data[: at + 8] + bytes.fromhex("000001b6510000") + bytes(size - 7) + data[at + 8 + size :]
    changed = changed[: at + 4] + (7).to_bytes(4, "little") + changed[at + 8 :]
    index = changed.index(b"idx1")
    entry = changed.index(size.to_bytes(4, "little"), index + 8 + 16)
    path.write_bytes(changed[:entry] + (7).to_bytes(4, "little") + changed[entry + 4 :])
    assert len(plan(Video(str(path)), unit_seconds=1.0)) == 1


def test_less_than_half_a_second_of_missing_pictures_bounds_a_shot(tmp_path):
    path = retimed(
        tmp_path / "a.mkv", film(tmp_path / "a.mp4", range(FRAMES), options={"bf": "0"}),
        lambda place, time: time + 0.4 * (place >= 30), base=1000,
    )  # fmt: skip
    (unit,) = watched(path)
    assert [(clip.start_frame, clip.end_frame) for clip in unit.clips] == [(0, 30), (30, 60)]
    assert [gap["kind"] for gap in unit.facts["transitions"]] == ["gap"]
    first, second = (clip.values["still_times"] for clip in unit.clips)
    assert [first[0], first[2], second[0], second[2]] == pytest.approx([0.0, 1.16, 1.6, 2.76], abs=0.002)


def test_a_codec_has_the_name_of_its_format(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("libsvtav1", rate=RATE, options={"preset": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        out.mux(stream.encode(None))
    assert probe(str(tmp_path / "a.mkv"))["codec"] == "av1"
