"""Films for tests of reading: noise that moves, with sound, in any container."""

import os

import av
import numpy as np

RATE, SOUND = 25, 44100


def film(path, seconds, *, options=None, bits=2_000_000, gop=RATE, size=(160, 120)):
    """H.264 with B-frames and a keyframe every `gop` frames, and AAC."""
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    with av.open(os.fspath(path), "w", options=options or {}) as out:
        video = out.add_stream(
            "libx264", rate=RATE, options={"preset": "ultrafast", "bf": "2", "g": str(gop), "sc_threshold": "0"}
        )
        video.width, video.height, video.pix_fmt, video.bit_rate = *size, "yuv420p", bits
        audio = out.add_stream("aac", rate=SOUND)
        audio.layout = "mono"
        for number in range(seconds * RATE):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.roll(picture, 3 * number, 1), format="rgb24")))
            if number % RATE == 0:
                noise = (random.standard_normal((1, SOUND)) * 0.1).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
                frame.sample_rate = SOUND
                out.mux(audio.encode(frame))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
