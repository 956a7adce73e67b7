"""What a run logs: TensorBoard's charts, and wandb in its offline mode, read back from the files that they write."""

import json
import struct

import numpy as np
import pytest

from tests.video_model.training import RandomBatches, task
from video_model.pictures import write_frames
from video_model.training.curves import sigma_levels, sigma_picture
from video_model.training.journal import Journal, WandbError, read_log
from video_model.training.loop import NotFinite, train_stage

LEVELS = {"held_out_loss": 0.4, "held_out_loss/sigma_0_0.14": 0.2, "held_out_loss/sigma_2.7_inf": 0.7}
CONFIG = {"seed": 3, "loop": {"precision": "bfloat16"}}


def board(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_the_board_has_groups_one_chart_for_all_levels_and_the_curve_at_each_evaluation(tmp_path):
    journal = Journal(tmp_path / "stages" / "video", tmp_path / "board", 0)
    journal.numbers(1, {"loss": 0.5, "learning_rate": 1e-4})
    journal.numbers(2, LEVELS)
    journal.numbers(4, {**LEVELS, "held_out_loss/sigma_0_0.14": 0.1})
    journal.close()
    found = board(tmp_path / "board" / "video")
    assert set(found.Tags()["scalars"]) == {
        "train/loss", "train/learning_rate", "held_out/loss", "held_out/sigma_0_0.14", "held_out/sigma_2.7_inf"
    }  # fmt: skip
    assert [(event.step, round(event.value, 5)) for event in found.Scalars("held_out/sigma_0_0.14")] == [
        (2, 0.2),
        (4, 0.1),
    ]
    assert [event.step for event in found.Images("held_out/loss by sigma")] == [2, 4]
    (layout,) = found.Tensors("custom_scalars__config__")
    assert b"held_out/sigma.*" in layout.tensor_proto.string_val[0]
    assert read_log(tmp_path / "stages" / "video" / "log.jsonl")[1] == {"step": 2, **LEVELS}  # names in the log stay


def test_the_curve_is_higher_where_the_loss_is():
    line = {"step": 8, "held_out_loss/sigma_2.7_inf": 1.0, "held_out_loss/sigma_0_0.14": 0.25}
    assert list(sigma_levels(line).items()) == [("0 to 0.14", 0.25), ("2.7 to inf", 1.0)]
    picture = sigma_picture([{"step": 4, "loss": 1.0}, line])
    rows, columns = np.nonzero((picture == (20, 70, 160)).all(-1))
    left, right = rows[columns < 70].mean(), rows[columns > 440].mean()
    assert picture.shape == (300, 480, 3) and left - right > 100  # px, downwards


def records(folder):
    """Records of the offline runs in a folder, in the order of their times; the file is a log of blocks, as LevelDB's."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    runs = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, whole, found = file.read_bytes(), 7, b"", []
        while at + 7 <= len(data):
            left = 32768 - at % 32768
            if left < 7:
                at += left
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or its last part
                found.append(pb.Record.FromString(whole))
                whole = b""
        runs.append(found)
    return runs


def history(found):
    rows = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            items = {
                (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
            }
            rows.append({key: value for key, value in items.items() if not key.startswith("_")})
    return rows


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_numbers_pictures_videos_and_config_arrive_in_wandb_s_offline_run(tmp_path, offline):
    folder, options = tmp_path / "stages" / "video", {"project": "p", "name": "mine", "config": CONFIG}
    for step in (0, 2):  # begun, and resumed
        journal = Journal(folder, tmp_path / "board", step, options)
        journal.numbers(step + 1, {"loss": 0.5 + step, "learning_rate": 1e-4})
        journal.numbers(step + 2, LEVELS)
        journal.picture(step + 2, "samples", np.full((8, 8, 3), 7, np.uint8))
        write_frames(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 3, 8)
        journal.videos(step + 2, "videos", [tmp_path / "a.mp4"], ["a circle"])
        journal.close()
    runs = records(folder)
    assert len(runs) == 2
    begun = [next(r.run for r in found if r.WhichOneof("record_type") == "run") for found in runs]
    assert begun[0].run_id == begun[1].run_id and begun[0].project == "p" and begun[0].display_name == "mine/video"
    config = {item.key: json.loads(item.value_json) for item in begun[0].config.update}
    assert config["seed"] == 3 and config["loop"] == CONFIG["loop"] and config["stage"] == "video"
    for step, found in zip((0, 2), runs, strict=True):
        rows = history(found)
        assert {"step": step + 1, "train/loss": 0.5 + step, "train/learning_rate": 1e-4} in rows
        levels = {"held_out/loss": 0.4, "held_out/sigma_0_0.14": 0.2, "held_out/sigma_2.7_inf": 0.7}
        assert {"step": step + 2, **levels} in rows
        named = {key for row in rows for key in row}
        assert {"samples", "videos", "held_out/loss by sigma"} <= {key.split("/_type")[0] for key in named}
        (end,) = [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"]
        assert end == 0
    files = [file.name for file in folder.glob("wandb/offline-run-*/files/media/**/*") if file.is_file()]
    assert sum(name.startswith("samples") for name in files) == 2 and sum(name.endswith(".mp4") for name in files) == 2


def test_a_stage_that_fails_is_a_failed_run_of_wandb_with_what_was_logged(tmp_path, offline):
    made = task(tmp_path / "run", batches=RandomBatches(bad=(2, 1)), loop={"wandb": "p"})
    with pytest.raises(NotFinite):
        train_stage(made)
    (found,) = records(made.folder)
    assert [row["step"] for row in history(found)] == [1, 2]
    assert [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"] == [1]


def test_wandb_that_cannot_be_begun_is_one_line(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**options):
        raise wandb.errors.UsageError("no API key configured\nmore")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(
        WandbError, match=r"loop.wandb: cannot be begun \(no API key configured\): `wandb login`, or set WANDB_MODE"
    ):
        Journal(tmp_path / "f", tmp_path / "b", 0, {"project": "p", "name": "n"})
