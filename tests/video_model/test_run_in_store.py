"""A run and its data in a store: trained, stopped, resumed on another machine and sampled from as one in a folder."""

import json
from pathlib import Path

import pytest
import torch

from curate.base.store import StoreError, store_of
from tests.video_model.clips import clip, clips, mp4, write_clips, write_images
from tests.video_model.test_stages import config
from tests.video_model.training import task
from video_model.data.index import open_index
from video_model.data.reading import Reader, stream
from video_model.errors import DataError, RunError
from video_model.training.journal import read_log
from video_model.training.loop import Interrupted
from video_model.training.run import Run
from video_model.training.sampler import Sampler
from video_model.training.stages import train
from video_model.training.storage import checkpoints, mirror, saving
from video_model.training.storage.checkpoints import CheckpointError
from video_model.training.storage.mirror import Mirror
from video_model.training.storage.saving import Saver

STAGE = {"sizes": [[32, 32]], "batch": 4, "lr": 1e-3, "warmup": 1, "ema": 0.5}
STAGES = {
    "image": STAGE | {"frames": [1], "steps": 3},
    "video": STAGE | {"frames": [4], "rates": [4, 8], "images": 0.3, "steps": 3},
}


def put_folder(folder: Path, url: str) -> str:
    store = store_of(url)
    for path in folder.rglob("*"):
        if path.is_file():
            store.replace(path.relative_to(folder).as_posix(), path.read_bytes())
    return url


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """A curated folder, and the same in a store."""
    folder = write_clips(tmp_path_factory.mktemp("data") / "curated", clips(24))
    return folder, put_folder(folder, "memory://bucket/curated")


def machine(monkeypatch, folder):
    monkeypatch.setenv("WINNOW_SCRATCH", str(folder))


def test_a_run_in_a_store_is_that_in_a_folder_resumed_on_another_machine(curated, tmp_path, monkeypatch):
    plain = train(config(stages=STAGES), [str(curated[0])], tmp_path / "plain")
    machine(monkeypatch, tmp_path / "one")
    asked = iter([False] * 4 + [True] * 9)
    store_of("memory://bucket/run").replace("lock.json", b"{}")  # whoever trains a run in a store holds its lease
    with pytest.raises(Interrupted, match="stopped after step 2 of stage video"):
        train(config(stages=STAGES), [curated[1]], "memory://bucket/run", stop=lambda: next(asked))
    with pytest.raises(RunError, match="is not empty: resume it with --resume"):
        train(config(stages=STAGES), [curated[1]], "memory://bucket/run")
    machine(monkeypatch, tmp_path / "two")
    run = train(config(stages=STAGES), [curated[1]], "memory://bucket/run", resume=True)
    for name in STAGES:
        one, other = (checkpoints.latest(of.stage(name) / "checkpoints") for of in (plain, run))
        assert one.step == other.step == 3 and other.facts["done"]
        for part in ("network", "ema", "optimizer"):
            a, b = one.tensors(part), other.tensors(part)
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        logs = [read_log(of.stage(name) / "log.jsonl") for of in (plain, run)]
        assert logs[0][0]["loss"] == logs[1][0]["loss"] and logs[0][-1]["step"] == logs[1][-1]["step"] == 3
    names = {entry.name for entry in store_of("memory://bucket/run").list()}
    assert {
        "config.json",
        "data.json",
        "stages/video/log.jsonl",
        "stages/video/checkpoints/step-00000003/state.json",
    } <= names
    assert any(name.startswith("codec/") for name in names) and any(name.endswith(".mp4") for name in names)
    assert not any("/." in name or name.startswith(".") for name in names)
    assert Run.open("memory://bucket/run").facts["sources"]["video"] == ["memory://bucket/curated"]
    machine(monkeypatch, tmp_path / "three")
    sampler = Sampler("memory://bucket/run")
    assert sampler.checkpoint.step == 3 and not list(sampler.run.root.rglob("*.mp4"))
    ours = checkpoints.latest(plain.stage("video") / "checkpoints").tensors("ema")
    assert all(torch.equal(ours[key], value) for key, value in sampler.checkpoint.tensors("ema").items())


def test_only_whole_checkpoints_count_and_old_ones_go(tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path / "one")
    monkeypatch.setattr(mirror, "PART", 1000)  # bytes: files are several objects
    there = Mirror("memory://bucket/steps")
    folder = there.fetch() / "stages/video/checkpoints"
    saver = Saver(folder, 1, mirror=there)
    for step in (1, 2, 3):
        saver.save(step, {"network": {"w": torch.full((900,), float(step))}}, {"done": False})
    saver.finish()
    store = store_of("memory://bucket/steps")
    steps = {entry.name.split("/")[3] for entry in store.list()}
    assert steps == {"step-00000002", "step-00000003"} == {path.name for path in folder.iterdir()}
    assert sum(".part-" in entry.name for entry in store.list()) == 8

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_pieces", full)
    saver.save(4, {"network": {"w": torch.zeros(3)}}, {})
    with pytest.raises(CheckpointError, match="step 4 cannot be written: the disk is full"):
        saver.finish()
    store.replace("stages/video/checkpoints/step-00000005/abc/network.safetensors", b"of one that was killed")
    (folder / "step-00000009").mkdir()  # of a machine that was lost before it had put it
    for where in ("one", "two"):
        machine(monkeypatch, tmp_path / where)
        found = checkpoints.latest(Mirror("memory://bucket/steps").fetch() / "stages/video/checkpoints")
        assert found.step == 3 and found.tensors("network")["w"].tolist() == [3.0] * 900


def test_what_a_machine_holds_already_is_not_fetched_again(tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path)
    with Mirror("memory://bucket/again") as there:
        folder = there.fetch()
        (folder / "config.json").write_text("{}")
        saver = Saver(folder / "stages/video/checkpoints", 1, mirror=there)
        saver.save(1, {"network": {"w": torch.ones(3)}}, {})
        saver.finish()
    fetched = []
    get = Mirror._get
    monkeypatch.setattr(Mirror, "_get", lambda self, names, target: (fetched.append(names), get(self, names, target)))
    Mirror("memory://bucket/again").fetch()
    assert fetched == []
    store_of("memory://bucket/again").replace("config.json", b'{"other": 1}')
    Mirror("memory://bucket/again").fetch()
    assert fetched == [["config.json"]] and json.loads((folder / "config.json").read_text()) == {"other": 1}


def test_data_in_a_store_is_that_in_a_folder(curated, tmp_path):
    write_images(tmp_path / "i.parquet", 5)
    url = put_folder(tmp_path, "memory://bucket/images") + "/i.parquet"
    plain = open_index([curated[0], tmp_path / "i.parquet"], "motion_score > 2 OR motion_score IS NULL")
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        index = open_index([curated[1], url], "motion_score > 2 OR motion_score IS NULL", cache=cache)
        assert index.keys == plain.keys and index.fingerprint == plain.fingerprint
        assert index.files[0].path == "memory://bucket/curated/data/train-00000-of-00002.parquet"
        assert [Reader(index)(row) for row in (0, 20, 23)] == [Reader(plain)(row) for row in (0, 20, 23)]
    assert dict(stream(index.files[1], {1, 7})) == dict(stream(plain.files[1], {1, 7}))


def test_only_the_row_groups_that_are_wanted_are_read(tmp_path):
    rows = [clip(i, data=mp4() + bytes([i]) * 200_000) for i in range(8)]
    url = put_folder(write_clips(tmp_path / "c", rows, shards=1, group=1), "memory://bucket/groups")
    index = open_index(url)
    from curate.base.store.bucket import Bucket

    read, bytes_read = Bucket.read, []

    def counted(self, name, start=0, end=None, *more, **options):
        found = read(self, name, start, end, *more, **options)
        bytes_read.append(len(found))
        return found

    Bucket.read = counted
    try:
        assert Reader(index)(3)[-5:] == bytes([3]) * 5
    finally:
        Bucket.read = read
    assert sum(bytes_read) < 1.7e6  # of 1.6 MB in all; a range is a megabyte at least


def test_what_is_not_there_is_told(tmp_path):
    for place, why in (
        ("memory://bucket/nothing", "no such folder, or nothing in it"),
        ("memory://bucket/nothing/a.parquet", "no such object"),
    ):
        with pytest.raises(DataError, match=why):
            open_index(place)
    store_of("memory://bucket/annotated").replace("dataset.json", b"{}")
    with pytest.raises(DataError, match="choose clips first: winnow select memory://bucket/annotated"):
        open_index("memory://bucket/annotated")
    with pytest.raises(StoreError, match="nosuch://"):
        open_index("nosuch://somewhere")
    with pytest.raises(RunError, match="is not a run of winnow train"):
        Run.open("memory://bucket/nothing")


def test_a_stage_of_a_run_in_a_store_is_saved_there_meanwhile(tmp_path, monkeypatch):
    from video_model.training.loop import train_stage

    machine(monkeypatch, tmp_path)
    there = Mirror("memory://bucket/stage")
    folder = there.fetch()
    made = task(folder, steps=3)
    made.mirror = there
    train_stage(made)
    names = [entry.name for entry in store_of("memory://bucket/stage").list() if entry.name.endswith("state.json")]
    assert names == [f"stages/video/checkpoints/step-0000000{step}/state.json" for step in (1, 2, 3)]
