"""A small annotated dataset with real footage, made by hand: scores with known answers, hostile names and captions."""

from __future__ import annotations

import io
import os
import struct
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

from curate.base.files import write_json
from curate.clip import Clip, Unit, Video
from curate.video.identity import fingerprint
from pipelines.annotation.stages import TABLES
from pipelines.config import load
from pipelines.dataset.dataset import FORMAT, Writer

MARKUP = '</script><img src=x onerror="document.title=1">'
HOSTILE_NAME = "a<img src=x onerror=alert(1)>\"'&.mp4"
SELECTION = [{"min": {"motion_score": 2.0}}, {"drop_top": {"technical_quality": "25%"}}]
FRAMES, CLIP = 120, 24  # of a video of 4.8 s, of a clip
IDS: dict[int, str] = {}  # of the videos made so far


def footage(path: Path, seed: int) -> str:
    """4.8 s at 25 frames per second, a keyframe every 12; each frame brighter than the one before."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 128, (6, 10, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    with av.open(str(path), "w", format="mp4") as out:
        options = {"g": "12", "bf": "2", "x264-params": "scenecut=0:open-gop=0:mbtree=0"}
        stream = out.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(FRAMES):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture + np.uint8(i), format="rgb24")))
        out.mux(stream.encode(None))
    return str(path)


def identified(path: Path, number: int) -> str:
    """The id of the file, which is its content's: made to begin with its number, so that ids are in order."""
    data, tries = path.read_bytes(), 0
    while not (found := fingerprint(str(path))).startswith(f"{number:02x}"):
        tries += 1
        path.write_bytes(data + struct.pack(">I4sI", 12, b"free", tries))  # a box that players pass over
    return found


def still(seed: int) -> bytes:
    colour = tuple(int(c) for c in np.random.default_rng(seed).integers(0, 256, 3))
    buffer = io.BytesIO()
    Image.new("RGB", (64, 36), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def unit(root: Path, number: int, generation: int = 0) -> Unit:
    """Video `number` and its five clips. Motion of clip i of video v is 2v + i, null for the last clip of the second."""
    name = HOSTILE_NAME if number == 0 else f"film {number}.mp4"
    path = root / "src" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        footage(path, number)
    IDS[number] = identified(path, number)
    clips = []
    for i in range(FRAMES // CLIP):
        start = i * CLIP
        vector = np.zeros(8)
        vector[[i, number]] = 1.0, 0.2
        lone = number == 1 and i == 4
        values = {
            "motion_score": None if lone else float(2 * number + i),
            "text_area": 0.01 * i,
            "technical_quality": float(10 * i + number),
            "caption_frame": None,
            "caption_video": f"a {'dog' if i % 2 else 'Cat'} in film {number}",
            "caption_merged": MARKUP if (number, i) == (0, 0) else f"a {'dog' if i % 2 else 'Cat'}, clip {i}",
            "similarity_merged": 0.1 * i,
            "image_embedding": (vector / np.linalg.norm(vector)).tolist(),
            **{f"still_{which}": still(10 * number + i) for which in ("first", "middle", "last")},
        }
        clip = Clip(start, start + CLIP, start / 25, (start + CLIP) / 25, 0.0, 4.8, values=values)
        if lone:
            clip.errors["motion"] = "ValueError: <b>no flow</b>"
        clips.append(clip)
    facts = {
        "duration": 4.8, "bytes": os.path.getsize(path), "fps": 25.0, "width": 160, "height": 96, "codec": "h264",
        "pixel_format": "yuv420p", "end_time": 4.8, "keyframes": [12 * i / 25 for i in range(10)],
        "transitions": [{"start": 2.4, "end": 2.4, "kind": "cut"}],
        "motion_times": [0.5 * k for k in range(1, 9)], "motion_samples": [float(k) for k in range(8)],
    }  # fmt: skip
    return Unit(Video(str(path), IDS[number]), facts=facts, clips=clips, seconds={"decode": 2.0, "text": 6.0})


def make(root: Path, videos: int = 4) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    config = load("quickstart", []).model_copy(update={"selection": SELECTION})
    write_json(root / "dataset.json", {"format": FORMAT, "config": config.model_dump(mode="json"), "models": {}})
    add(root, range(videos))
    writer = Writer(root, TABLES, models={})
    writer.add(Unit(Video(str(root / "bad.mp4"), "f" * 32)).fail(f"is a text {MARKUP}"), stages=["shots"])
    writer.flush()
    return root


def add(root: Path, videos) -> None:
    """Shards of two videos each."""
    writer = Writer(root, TABLES, models={}, shard_clips=2 * FRAMES // CLIP)
    for number in videos:
        writer.add(unit(root, number), stages=["shots"])
    writer.flush()


def clip_id(video: int, clip: int) -> str:
    if video not in IDS:
        with tempfile.TemporaryDirectory() as folder:
            IDS[video] = identified(Path(footage(Path(folder) / "film.mp4", video)), video)
    return f"{IDS[video]}-{clip * CLIP:08d}"
