"""Image-text data as people have them: plain Parquet, WebDataset shards; through the index and through a training run."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.video_model.clips import STEP, LetterEncoder, PoolCodec, clip, clips, frame_numbers, png, write_clips
from tests.video_model.test_stages import STAGE
from tests.video_model.test_stages import config as tiny
from video_model.data.index import join, open_index
from video_model.data.reading import Reader, stream
from video_model.errors import DataError
from video_model.latents.batches import Batches, BatchSpec
from video_model.latents.build import build_cache
from video_model.training.stages import train
from video_model.training.stores import Stores

SIZE = (40, 40)


def shard(path, samples):
    """A .tar of (name, bytes or text)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, data in samples:
            data = data if isinstance(data, bytes) else data.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


def samples(count, first=0, **parts):
    """Sample i has level STEP * i; its parts are called with i."""
    found = []
    for i in range(first, first + count):
        found.append((f"a/{i:05d}.png", png(STEP * i)))
        found += [(f"a/{i:05d}.{ending}", make(i)) for ending, make in (parts or {"txt": "picture {}".format}).items()]
    return found


def laion(path, count, *, column="image", caption="TEXT", plain=True, **more):
    pictures = [png(STEP * i) for i in range(count)]
    values = pictures if plain else [{"bytes": data, "path": None} for data in pictures]
    table = {column: values, caption: [f"picture {i}" for i in range(count)], "URL": ["https://nowhere"] * count}
    pq.write_table(pa.table(table | more), path)
    return path


def says(paths, **options):
    with pytest.raises(DataError) as caught:
        open_index(paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_shard_gives_its_pictures_and_captions(tmp_path):
    parts = {
        "txt": "text {}".format,
        "json": lambda i: json.dumps({"caption": f"picture {i}" if i else None, "width": 40, "height": 40, "score": i}),
    }
    path = shard(tmp_path / "00000.tar", samples(6, **parts))
    index = open_index(path)
    assert index.is_image.all() and len(set(index.keys)) == 6 and index.shape.tolist() == [[40, 40]] * 6
    assert [index.caption(row, 0.5) for row in range(6)] == ["text 0", *(f"picture {i}" for i in range(1, 6))]
    read = Reader(index)
    assert [read(row) for row in (4, 0)] == [png(STEP * 4), png(0)]
    assert dict(stream(index.files[0], {1, 5})) == {1: png(STEP), 5: png(STEP * 5)}
    assert open_index(path, "score >= 4").keys == index.keys[4:]
    cache = build_cache(index, PoolCodec(), LetterEncoder(), tmp_path / "l", sizes=[SIZE], workers=1)
    batch = Batches(index, cache, BatchSpec(frames=[1], sizes=[SIZE], batch=6)).batch(0)
    for key, number, text in zip(batch["keys"], frame_numbers(batch["latents"])[:, 0], batch["captions"], strict=True):
        assert number == index.keys.index(key) and text.endswith(f" {number}")


@pytest.mark.parametrize("column", ["image", "jpg", "png", "webp"])
@pytest.mark.parametrize("caption", ["caption", "text", "TEXT", "txt"])
@pytest.mark.parametrize("plain", [True, False])
def test_parquet_as_people_have_it(tmp_path, column, caption, plain):
    index = open_index(laion(tmp_path / "a.parquet", 3, column=column, caption=caption, plain=plain))
    assert [index.caption(row, 0.9) for row in range(3)] == ["picture 0", "picture 1", "picture 2"]
    assert Reader(index)(2) == png(STEP * 2) == dict(stream(index.files[0], {2}))[2]


def test_a_folder_as_img2dataset_leaves_it(tmp_path):
    """Its Parquet beside each shard tells of it, and has no pictures."""
    for k in range(2):
        shard(tmp_path / f"{k:05d}.tar", samples(3, 3 * k))
        pq.write_table(pa.table({"url": ["https://nowhere"], "caption": ["a"]}), tmp_path / f"{k:05d}.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    assert len(open_index(tmp_path)) == 6


def test_what_is_wrong_with_shards_is_counted(tmp_path):
    good = samples(4)
    shard(tmp_path / "a.tar", [*good, ("b/x.txt", "no picture"), ("b/y.mp4", b"a video"), ("b/.z.jpg", b"hidden")])
    shard(tmp_path / "b.tar", [("q.jpg", b"broken"), ("q.json", "[1"), ("r.jpg", b"not a picture"), ("r.txt", "r")])
    whole = shard(tmp_path / "c.tar", samples(4, 10)).read_bytes()
    (tmp_path / "c.tar").write_bytes(whole[: 512 * 9 + 100])  # in the third picture
    (tmp_path / "d.tar").write_bytes(b"no tar at all" * 100)
    index = open_index(tmp_path)
    assert len(index) == 4 + 1 + 2
    assert index.report == {
        "a sample of a .tar shard without a picture": 1,
        "a video in a .tar shard": 1,
        "a sample of a .tar shard whose text cannot be read": 1,
        "c.tar: is cut short or damaged at byte 4708, and is not read from there on": 1,
        "d.tar: is cut short or damaged at byte 0, and is not read from there on": 1,
    }
    cache = build_cache(index, PoolCodec(), LetterEncoder(), tmp_path / "l", sizes=[SIZE], workers=1)
    report = Batches(index, cache, BatchSpec(frames=[1], sizes=[SIZE], batch=2)).report
    assert report["skipped"] == {"is not a picture that Pillow knows, or its header is damaged": 1}
    assert report["left out of the sources"] == index.report and report["used"] == 6
    garbage = whole[: 512 * 2 + 512] + b"x" * 5000  # a header that is none, after some that are good
    (tmp_path / "e.tar").write_bytes(garbage)
    assert any("e.tar: is cut short or damaged" in reason for reason in open_index(tmp_path).report)


def test_what_cannot_be_used_is_said_with_what_can(tmp_path):
    assert "WebDataset shards (.tar of NAME.jpg and NAME.txt or NAME.json)" in says([tmp_path])
    assert "image-text Parquet (image or jpg, and caption or text)" in says([])
    assert "is a WebDataset of videos" in says(shard(tmp_path / "v.tar", [("a.mp4", b"x"), ("a.json", "{}")]))
    (tmp_path / "x.tar").write_bytes(b"")
    assert "holds no rows (1: x.tar: is cut short or damaged at byte 0" in says(tmp_path / "x.tar")
    (tmp_path / "y.tar.gz").write_bytes(b"")
    assert "is compressed" in says(tmp_path / "y.tar.gz")
    pq.write_table(pa.table({"URL": ["a"], "TEXT": ["b"]}), tmp_path / "z.parquet")
    assert "has addresses of pictures (URL) and no pictures: download them" in says(tmp_path / "z.parquet")
    table = {"image": [png(0)], "title": ["a"]}
    pq.write_table(pa.table(table), tmp_path / "w.parquet")
    assert "no caption column (caption_frame, caption_video, caption_merged, caption, text, TEXT, txt)" in says(
        tmp_path / "w.parquet"
    )


def test_the_same_shard_elsewhere_is_the_same_data_and_another_caption_is_not(tmp_path):
    prints = [
        open_index(shard(tmp_path / folder / "0.tar", samples(2, txt=text.format))).fingerprint
        for folder, text in (("a", "x {}"), ("b", "x {}"), ("c", "y {}"))
    ]
    assert prints[0] == prints[1] != prints[2]


# --- through a run

CODEC = {"kind": "own", "channels": 2, "steps": 0, "frames": 32}
IMAGE = STAGE | {"frames": [1], "steps": 2}


def image_config(**changes):
    return tiny(
        **{"stages": {"image": IMAGE}, "samples": {"count": 1, "steps": 1, "every": 0}, "codec": CODEC} | changes
    )


@pytest.mark.parametrize("form", ["parquet", "tar", "folder"])
def test_an_image_stage_is_trained_on_image_text_data_alone(tmp_path, form):
    """With the captions that configs have by default, which these data lack."""
    if form == "parquet":
        source = laion(tmp_path / "laion.parquet", 12)
    elif form == "tar":
        source = shard(tmp_path / "00000.tar", samples(12))
    else:
        shard(tmp_path / "d" / "00000.tar", samples(8))
        source = laion(tmp_path / "d" / "more.parquet", 6, column="jpg", caption="caption").parent
    run = train(image_config(), [str(source)], tmp_path / "run")
    assert run.done("image").step == 2
    facts = json.loads((run.stage("image") / "data.json").read_text())
    assert facts["without a caption"] == 0 and facts["used"] == facts["rows"] > 5


def test_stages_of_curated_clips_and_of_pictures_share_a_run(tmp_path):
    """An image stage of a shard alone, a video stage of clips with a share of pictures of two more sources."""
    curated = write_clips(tmp_path / "curated", clips(16))
    tar = shard(tmp_path / "p.tar", samples(9))
    parquet = laion(tmp_path / "q.parquet", 8)
    stages = {
        "image": IMAGE | {"sources": [str(tar)], "only_sources": True},
        "video": STAGE | {"frames": [4], "images": 0.5, "steps": 2, "sources": [str(tar), str(parquet)]},
    }
    config = tiny(stages=stages, samples={"count": 1, "steps": 1, "frames": 4, "every": 0}, codec=CODEC)
    run = train(config, [str(curated)], tmp_path / "run")
    assert run.done("image").step == run.done("video").step == 2
    stores = Stores(config, [str(curated)])
    image, video = stores.parts["image"][0], stores.parts["video"][0]
    assert image.is_image.all() and image.caption(0, 0.5).startswith("picture")
    assert {video.caption(row, 0.1).split()[0] for row in range(len(video))} == {"caption_frame", "picture"}
    drawn = {video.caption(0, draw).split()[0] for draw in (0.1, 0.6, 0.9)}
    assert drawn == {"caption_frame", "caption_video", "caption_merged"}


def test_captions_that_were_asked_for_are_looked_for_in_all_stages_together(tmp_path):
    curated, tar = write_clips(tmp_path / "curated", clips(16)), shard(tmp_path / "p.tar", samples(9))
    stages = {
        "image": IMAGE | {"sources": [str(tar)], "only_sources": True},
        "video": STAGE | {"frames": [4], "steps": 2},
    }
    both = tiny(stages=stages, data={"held_out": 0.3, "captions": {"caption_merged": 1, "caption": 1}})
    assert Stores(both, [str(curated)]).parts["video"][0].caption(0, 0.5).startswith("caption_merged of")
    lost = tiny(stages=stages, data={"held_out": 0.3, "captions": {"caption_merged": 1, "nope": 1}})
    with pytest.raises(DataError, match="captions: no source has a column nope"):
        Stores(lost, [str(curated)])


def test_clips_and_pictures_of_a_shard_are_joined(tmp_path):
    tar = shard(tmp_path / "p.tar", samples(3))
    folder = write_clips(tmp_path / "c", [clip(i) for i in range(4)])
    joined = join(open_index(folder), open_index(tar))
    assert joined.is_image.tolist() == [False] * 4 + [True] * 3 and len(set(joined.keys)) == 7
    assert Reader(joined)(6) == png(STEP * 2) and np.isnan(joined.fps[4:]).all()
