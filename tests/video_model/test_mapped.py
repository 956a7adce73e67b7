"""The index of many clips: mapped, made once, and the same batches as those of rows in memory."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.video_model.clips import LetterEncoder, PoolCodec, clip, clips, write_clips, write_images
from video_model.config import TrainConfig
from video_model.data import index as indexing
from video_model.data.index import open_index
from video_model.data.rows import digests_of, first_of_each
from video_model.latents import sorting
from video_model.latents.batches import Batches, BatchSpec
from video_model.latents.build import build_cache
from video_model.latents.cache import Taken
from video_model.latents.places import Sorted
from video_model.training.stores import Stores

# Of the batches, reports and fingerprints below, computed with the code that held a Python object for each clip
BEFORE = "38a06060c0cf8030ea0de08715137deb104cb79195192660e6653ffa6504b566"
MIXED = {
    "stages": {
        "image": {"frames": [1], "sizes": [[48, 64], [48, 96]], "steps": 9, "batch": 4},
        "video": {
            "frames": [4, 8, 16], "sizes": [[48, 64], [48, 96]], "rates": [4, 8], "steps": 9, "batch": 4, "images": 0.3,
            "where": "motion_score > 5",
        },
        "range": {"frames": [8], "sizes": [[48, 64]], "rates": {"min": 3, "max": 8}, "steps": 9, "batch": 6},
    },
    "data": {"held_out": 0.2, "small_buckets": "merge"},
    "seed": 5,
    "codec": {"kind": "own", "factor": 4},
}  # fmt: skip


class Known:
    """Latents that say which clip, size and window they are of; there are none of one clip."""

    state = "known"

    def __init__(self, rates, max_frames, folder):
        self.rates, self.max_frames, self.folder = rates, max_frames, folder

    def unusable(self, index, rows, size):
        return {row: "is the seventh" for row in rows.tolist() if index.key(row) == f"{3:016x}-00000100"}

    def latents(self, index, wanted, clips):
        made = []
        for row, size, window in wanted:
            seed = hashlib.sha256(f"{index.key(row)} {size} {window}".encode()).digest()[:4]
            value = int.from_bytes(seed, "big") / 2**32
            made.append(Taken(torch.full((window.length, 1, 1, 1), value), 8.0, window.first))
        return made

    def texts(self, texts):
        return [torch.full((1, 1), float(len(text))) for text in texts]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 clips without bytes, of several lengths, rates, shapes and captions, and 12 pictures."""
    folder = tmp_path_factory.mktemp("mapped")
    rows = [
        clip(
            i, data=b"", frames=20 + 7 * i % 60, fps=(8, 24, 30)[i % 3], width=(64, 96)[i % 5 == 0],
            **({"caption_video": None} if i % 4 == 0 else {}),
        )
        for i in range(60)
    ]  # fmt: skip
    write_clips(folder / "c", rows, shards=4)
    write_images(folder / "i.parquet", 12)
    return folder


def told(folder: Path, cache: Path | None) -> str:
    """Of all that a run of three stages sees of its clips in 40 steps each."""
    tree = MIXED | {
        "stages": {name: dict(stage) for name, stage in MIXED["stages"].items()},
    }
    tree["stages"]["video"]["sources"] = [str(folder / "i.parquet")]
    stores, said = Stores(TrainConfig.model_validate(tree), [str(folder / "c")], cache), hashlib.sha256()
    for name in tree["stages"]:
        batches = stores.batches(name, Known(*stores.thinning, cache))
        said.update(repr((len(batches), batches.report)).encode())
        for step in range(40):
            batch = batches.batch(step)
            said.update(repr((batch["keys"], batch["captions"])).encode())
            for key in ("latents", "fps", "motion", "images"):
                said.update(batch[key].contiguous().numpy().tobytes())
    prints = [[part.fingerprint, len(part)] for pair in stores.parts.values() for part in pair]
    facts = {key: value for key, value in stores.facts().items() if key != "sources"}
    said.update(repr([*prints, stores.training.fingerprint, facts]).encode())
    return said.hexdigest()


def test_batches_are_those_of_before_to_the_bit_in_memory_mapped_and_mapped_again(data, tmp_path, monkeypatch):
    assert told(data, None) == BEFORE
    assert told(data, tmp_path) == BEFORE

    def no(*_):
        raise AssertionError("made again")

    for module, name in ((indexing, "_made"), (sorting, "_Sorting"), (Stores, "_divided")):
        monkeypatch.setattr(module, name, no)
    assert told(data, tmp_path) == BEFORE
    assert told(data, tmp_path) == BEFORE  # and nothing of it was changed by being used


def test_a_mapped_index_holds_no_rows_of_its_own_and_is_made_again_when_a_file_changes(data, tmp_path):
    first = open_index(data / "c", cache=tmp_path)
    again = open_index(data / "c", cache=tmp_path)
    assert again.keys == first.keys and again.at is None and again.texts(7) == open_index(data / "c").texts(7)
    for name, values in again.rows.numbers.items():
        base = values
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        assert not values.flags.owndata and not values.flags.writeable, name
    assert len(list((tmp_path / "index").iterdir())) == 1
    path = sorted((data / "c" / "data").iterdir())[0]
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before, before + 10**9))
    assert open_index(data / "c", cache=tmp_path).fingerprint == first.fingerprint
    assert len(list((tmp_path / "index").iterdir())) == 2
    os.utime(path, ns=(before, before))


def test_rows_named_twice_and_shards_of_pictures_are_mapped_alike(data, tmp_path):
    twice = [data / "c", write_clips(tmp_path / "more", clips(3)), data / "i.parquet"]
    plain, mapped = open_index(twice), open_index(twice, cache=tmp_path / "cache")
    again = open_index(twice, cache=tmp_path / "cache")
    for one in (mapped, again):
        assert one.keys == plain.keys and one.report == plain.report and one.fingerprint == plain.fingerprint
    assert again.report["named twice"] == 3 and len(again) == 72


def test_a_finished_cache_is_opened_without_reading_clips_or_headers(tmp_path, monkeypatch):
    rows = clips(6)
    rows[2] = clip(2, data=b"no video")
    index = open_index(write_clips(tmp_path / "c", rows), cache=tmp_path / "cache")
    options = {"sizes": [(48, 64)], "rates": [8], "workers": 1}
    made = build_cache(index, PoolCodec(), LetterEncoder(), tmp_path / "cache", **options)

    def no(*_, **__):
        raise AssertionError("looked again")

    for name in ("video_model.latents.places._write", "video_model.latents.build.build_texts"):
        monkeypatch.setattr(name, no)
    monkeypatch.setattr("video_model.latents.build.join", no)
    index = open_index(tmp_path / "c", cache=tmp_path / "cache")
    cache = build_cache(index, PoolCodec(), LetterEncoder(), tmp_path / "cache", **options)
    assert cache.skipped == made.skipped and len(cache.skipped) == 1
    spec = BatchSpec(frames=[8], sizes=[(48, 64)], rates=[8], batch=4)
    one, other = (Batches(index, store, spec).batch(3) for store in (made, cache))
    assert one["keys"] == other["keys"] and torch.equal(one["latents"], other["latents"])


def test_names_are_found_by_their_digests_also_where_halves_are_the_same():
    high, low = digests_of(["a", "b", "c", "d"])
    assert Sorted.of(high, low).find(*digests_of(["c", "z", "a"])).tolist() == [2, -1, 0]
    alike = np.array([7, 7, 7, 9], np.uint64), np.array([1, 2, 3, 1], np.uint64)
    asked = np.array([7, 7, 9, 9, 7, 10], np.uint64), np.array([3, 4, 1, 2, 1, 1], np.uint64)
    assert Sorted.of(*alike).find(*asked).tolist() == [2, -1, 3, -1, 0, -1]
    assert first_of_each(*alike) is None
    assert first_of_each(np.array([7, 9, 7, 7]), np.array([1, 1, 1, 2])).tolist() == [0, 1, 3]


def test_rows_of_a_mapped_index_point_into_the_files(data, tmp_path):
    index = open_index([data / "c", data / "i.parquet"], cache=tmp_path)
    for row in (0, 31, 65):
        file, position = index.place(row)
        table = pq.read_table(index.files[file].path)
        if index.kind(row) == "video":
            assert table["clip_id"][position].as_py() == index.key(row)
        else:
            assert table["caption"][position].as_py() == index.caption(row, 0.5)
