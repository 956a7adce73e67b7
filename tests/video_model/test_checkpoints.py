"""Checkpoints: whole or not there, in one file or in shards, the last good one found."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from video_model.tensor_files import TensorFiles, write_tensors
from video_model.training.storage import checkpoints, saving
from video_model.training.storage.checkpoints import CheckpointError


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def save(folder, step, keep=9):
    return saving.save(folder, step, {"network": {"w": torch.full((3,), float(step))}}, {"done": False}, keep)


def test_the_last_good_checkpoint_is_found(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / ".step-00000009").mkdir()  # was being written
    file = tmp_path / "step-00000003" / "network.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    (tmp_path / "step-00000004").mkdir()
    found = checkpoints.latest(tmp_path)
    assert found.step == 2 and found.tensors("network")["w"].tolist() == [2, 2, 2]
    assert save(tmp_path, 3).tensors("network")["w"].tolist() == [3, 3, 3]  # takes the damaged one's place
    assert checkpoints.latest(tmp_path / "none") is None


def test_shards_count_only_when_all_are_there(tmp_path):
    """A worker's shard that is missing or cut short: the checkpoint before it is used."""
    for step in (1, 2):
        kept = save(tmp_path, step).path
        for rank, rows in ((0, [1.0, 2.0]), (1, [3.0])):
            path = kept / f"ema-{rank:05d}-of-00002.safetensors"
            note = {"shards": json.dumps({"w": [[3], [2 * rank]]})}
            save_file({"w": torch.tensor(rows)}, path, metadata=note)
        state = json.loads((kept / "state.json").read_text())
        state["files"] |= {path.name: path.stat().st_size for path in kept.glob("ema-*")}
        (kept / "state.json").write_text(json.dumps(state))
    found = checkpoints.latest(tmp_path)
    assert found.step == 2 and found.tensors("ema")["w"].tolist() == [1, 2, 3]
    assert found.part("ema").read("w", ((1,), (2,))).tolist() == [2, 3]  # over two shards
    assert found.part("ema").read("w", ((3,), (0,))).tolist() == []
    (found.path / "ema-00001-of-00002.safetensors").unlink()
    assert checkpoints.latest(tmp_path).step == 1
    with pytest.raises(CheckpointError, match="w has 2 of 3 values: the shard of a worker is missing"):
        found.tensors("ema")


def test_what_is_written_is_what_safetensors_reads(tmp_path):
    values = {
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 2),
        "low": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    write_tensors(tmp_path / "a.safetensors", values)
    files = TensorFiles([tmp_path / "a.safetensors"])
    for found in (load_file(tmp_path / "a.safetensors"), {name: files.read(name) for name in files.shapes}):
        assert same(found, values) and all(found[name].dtype == value.dtype for name, value in values.items())


def test_old_checkpoints_go(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_pieces", full)
    with pytest.raises(
        CheckpointError, match=r"step 2 cannot be written: the disk is full; free some space, then use --resume"
    ):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
