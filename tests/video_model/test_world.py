"""The world: what is drawn is what the caption says, and the reader says what was drawn."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from video_model.world.reader import ATTRIBUTES, Reading, blur, find_shape, read, score
from video_model.world.world import COLOURS, DIRECTIONS, KINDS, SHAPES, Scene, main, make_world, parse, render

FRAMES, FPS = 8, 8


def drawn(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [Scene.draw(rng) for _ in range(count)]


def clip(scene: Scene) -> np.ndarray:
    """[8, 3, 64, 64] in [-1, 1]: the first second of a scene as a generator is trained on it."""
    frames = render(scene, fps=FPS, seconds=FRAMES / FPS).astype(float) / 127.5 - 1
    return frames.reshape(FRAMES, 64, 2, 64, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)


def blurred(video: np.ndarray, times: int = 2) -> np.ndarray:
    for _ in range(times):
        video = np.stack([blur(frame.transpose(1, 2, 0)).transpose(2, 0, 1) for frame in video])
    return video


def decoded(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rows = [json.loads(line) for line in make_world(folder, 24, seed=3, contaminate=0.5).read_text().splitlines()]
    return folder, rows


def test_clean_clips_are_read_right():
    scenes = drawn(100, seed=0)
    shares = score([read(clip(scene), FPS) for scene in scenes], [scene.caption for scene in scenes])
    assert set(shares) == {*ATTRIBUTES, "all"} and min(shares.values()) >= 0.99


def test_blurred_and_noisy_clips_are_read_nearly_as_well():
    rng, scenes = np.random.default_rng(1), drawn(100, seed=2)
    readings = [read(blurred(clip(scene)) + rng.normal(0, 0.05, (FRAMES, 3, 64, 64)), FPS) for scene in scenes]
    assert min(score(readings, [scene.caption for scene in scenes]).values()) >= 0.97


def test_soft_squares_of_small_frames_are_no_circles():
    """At 32 px a square has few sharp corners to lose: what it is compared with must have lost as many."""
    rng, right = np.random.default_rng(10), Counter()
    for shape in SHAPES:
        for scene in drawn(30, seed=11):
            scene = replace(scene, shape=shape, extent=sum(SHAPES[shape]) / 2)
            video = clip(scene).reshape(FRAMES, 3, 32, 2, 32, 2).mean((3, 5))
            right[shape] += read(blurred(video, 4) + rng.normal(0, 0.03, video.shape), FPS).shape == shape
    assert min(right[shape] for shape in SHAPES) >= 29


def test_the_speed_is_that_of_the_world_whatever_the_frame_rate():
    scene = replace(drawn(1, seed=4)[0], direction="right", x=0.2, y=0.5, pace=0.1)
    frames = render(scene, size=64, fps=24, seconds=2).transpose(0, 3, 1, 2) / 127.5 - 1
    assert [read(frames[::step], 24 / step).speed for step in (1, 3, 6)] == ["slowly"] * 3
    assert read(frames[::3], 24).speed == "quickly"  # played three times as fast


def test_what_is_not_there_is_not_read():
    rng, scene = np.random.default_rng(5), drawn(1, seed=5)[0]
    assert read(rng.normal(0, 0.5, (FRAMES, 3, 64, 64)), FPS) == Reading()
    empty = clip(replace(scene, extent=0.0))
    assert read(empty + rng.normal(0, 0.05, empty.shape), FPS) == Reading(background=scene.background)
    resting = read(clip(replace(scene, pace=0.0)) + rng.normal(0, 0.05, empty.shape), FPS)
    assert (resting.shape, resting.colour, resting.direction, resting.speed) == (scene.shape, scene.colour, None, None)
    still = read(clip(scene)[:1], FPS)
    assert (still.shape, still.colour, still.direction, still.speed) == (scene.shape, scene.colour, None, None)
    assert read(np.full((FRAMES, 3, 64, 64), np.nan), FPS).shape is None


def test_a_shape_that_changes_or_jumps_is_no_answer():
    scene = replace(drawn(1, seed=6)[0], shape="circle", colour="red", direction="right", x=0.3, y=0.5, pace=0.28)
    half = FRAMES // 2
    two_forms = np.concatenate([clip(scene)[:half], clip(replace(scene, shape="triangle"))[half:]])
    assert read(two_forms, FPS).shape is None and read(two_forms, FPS).direction == "right"
    two_colours = np.concatenate([clip(scene)[:half], clip(replace(scene, colour="blue"))[half:]])
    assert read(two_colours, FPS).colour is None and read(two_colours, FPS).shape == "circle"
    there_and_back = clip(scene)[[0, 2, 4, 6, 6, 4, 2, 0]]
    assert read(there_and_back, FPS).direction is None
    above, below = clip(replace(scene, y=0.25)), clip(replace(scene, y=0.75))
    assert read(above, FPS).shape == "circle"
    assert read(np.concatenate([above[:, :, :32], below[:, :, 32:]], 2), FPS).shape is None  # two circles


def test_the_reader_wants_a_video():
    with pytest.raises(ValueError, match=r"got \[8, 4, 64, 64\]"):
        read(np.zeros((8, 4, 64, 64)), FPS)


def test_scores_count_what_prompts_name():
    readings = [Reading("circle", "red", "left", "slowly", "grey"), Reading("circle", None, None, None, "grey")]
    prompts = ["a red circle moves right slowly over a grey background", "a red circle"]
    assert score(readings, prompts) == {
        **{"shape": 1.0, "colour": 0.5, "direction": 0.0, "speed": 1.0, "background": 1.0, "all": 0.0}
    }
    assert score(readings[1:], ["a circle"]) == {"shape": 1.0, "all": 1.0}
    with pytest.raises(ValueError, match="a dog"):
        score(readings[:1], ["a dog"])


def test_captions_say_all_that_is_drawn():
    for scene in drawn(50, seed=7):
        assert parse(scene.caption) == {name: getattr(scene, name) for name in ATTRIBUTES}
    assert parse("A blue square.") == {"colour": "blue", "shape": "square"}


def test_shapes_stay_inside_the_picture_and_move_as_told():
    for scene in drawn(60, seed=8):
        frames = render(scene, size=64) / 255
        where = []
        for frame in (frames[0], frames[-1]):
            cover, _ = find_shape(frame, np.median(frame, axis=(0, 1)))
            assert cover[[0, -1]].max() < 0.4 and cover[:, [0, -1]].max() < 0.4  # a blurred edge may touch, no more
            y, x = np.mgrid[:64, :64]
            where.append(np.array([(cover * x).sum(), (cover * y).sum()]) / cover.sum() / 64)
        moved = (where[1] - where[0]) / ((len(frames) - 1) / 24)
        assert moved == pytest.approx(scene.pace * np.array(DIRECTIONS[scene.direction]), abs=0.01)


def test_pictures_are_the_same_at_every_size():
    scene = drawn(1, seed=9)[0]
    small, large = render(scene, size=64, seconds=0.1), render(scene, size=128, seconds=0.1)
    halved = large.reshape(len(large), 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(halved - small).mean() < 1.0


def test_the_list_tells_the_truth_of_the_files(spoiled):
    folder, rows = spoiled
    kinds = Counter(row["contamination"] for row in rows)
    assert kinds == {"none": 12, **dict.fromkeys(KINDS, 3)}
    for row in rows:
        video = decoded(folder / row["path"])
        assert video.shape == (30, 128, 128, 3)
        reading = read(video[::3].transpose(0, 3, 1, 2) / 127.5 - 1, 8)
        truth = Reading(*(row[name] for name in ATTRIBUTES))
        told = parse(row["caption"])
        kind = row["contamination"]
        if kind in ("none", "caption"):
            assert replace(reading, confidence=0.0) == truth
            assert (told == {name: row[name] for name in ATTRIBUTES}) == (kind == "none")
        else:
            assert told == {name: row[name] for name in ATTRIBUTES}
        if kind == "static":
            assert (reading.shape, reading.colour, reading.direction) == (row["shape"], row["colour"], None)
        if kind == "cut":
            steps = np.abs(np.diff(video.astype(float), axis=0)).mean((1, 2, 3))
            assert 9 <= steps.argmax() <= 18 and steps.max() > 4 * np.median(steps)
        if kind == "text":
            assert (video == 255).all(-1).mean() < 0.5 and (video.min(-1) > 200).mean() > 0.05


def test_the_same_arguments_make_the_same_files(spoiled, tmp_path):
    folder, rows = spoiled
    again = make_world(tmp_path, 24, seed=3, contaminate=0.5)
    assert again.read_text() == (folder / "list.jsonl").read_text()
    assert all((tmp_path / row["path"]).read_bytes() == (folder / row["path"]).read_bytes() for row in rows)
    assert make_world(tmp_path / "b", 2, seed=4).read_text() != make_world(tmp_path / "c", 2, seed=5).read_text()


def test_command_line(tmp_path, capsys):
    main([str(tmp_path), "--clips", "4", "--seed", "1", "--contaminate", "0.5", "--kinds", "static"])
    rows = [json.loads(line) for line in Path(capsys.readouterr().out.strip()).read_text().splitlines()]
    assert Counter(row["contamination"] for row in rows) == {"none": 2, "static": 2}
    assert all(row["shape"] in SHAPES and row["colour"] in COLOURS for row in rows)
    with pytest.raises(ValueError, match="contaminate must lie in"):
        make_world(tmp_path, 4, contaminate=2)
