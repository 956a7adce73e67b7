"""A dataset that grows, is empty, or is damaged; one clip and its film; the report."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.clip import Unit, Video
from pipelines.annotation.stages import TABLES
from pipelines.dataset.dataset import Writer
from pipelines.inspector.data.media import ClipCache, MediaError
from pipelines.inspector.report.report import ReportError, write_report
from tests.pipelines.inspector import data
from tests.pipelines.inspector.conftest import serving


def test_a_dataset_that_is_being_written(tmp_path):
    root = data.make(tmp_path / "annotated", videos=2)
    with serving(root, tmp_path / "cache") as server:
        assert server.get("/api/start")["clips"] == 10 and not server.get("/api/changes")["changed"]
        half = next((root / "clips").glob("part-*.parquet")).read_bytes()[:500]
        (root / "clips" / ".part-0.parquet.1.tmp").write_bytes(half)
        (root / "clips" / "part-0123456789abcdef.parquet").write_bytes(half)  # its twin is not there yet: not committed
        assert not server.get("/api/changes")["changed"]
        (root / "clips" / "part-0123456789abcdef.parquet").unlink()
        data.add(root, [2])
        assert server.get("/api/changes")["changed"]
        assert server.post("/api/view", {})["clips"] == 10  # what the page shows stays as it is until it asks
        assert server.get("/api/start")["clips"] == 15 and server.post("/api/view", {})["clips"] == 15
        writer = Writer(root, TABLES, models={})
        again = data.unit(root, 0)
        again.clips = again.clips[:3]
        writer.add(again, stages=["shots"], generation=1)
        writer.flush()
        assert server.get("/api/start")["clips"] == 13
        assert server.ask("GET", f"/api/still?clip={data.clip_id(0, 0)}")[0] == 200
        assert server.ask("GET", f"/api/still?clip={data.clip_id(0, 4)}")[0] == 404


def test_empty_and_damaged_datasets_say_so_and_recover(tmp_path):
    root = tmp_path / "annotated"
    root.mkdir()
    with serving(root, tmp_path / "cache") as server:
        for step, says in (
            (lambda: None, "no dataset.json"),
            (lambda: (root / "dataset.json").write_text("{"), "cannot be read"),
            (lambda: (root / "dataset.json").write_text('{"format": 99}'), "format 99"),
            (lambda: (root / "dataset.json").write_text('{"format": 1, "config": {}}'), "no committed shard yet"),
        ):
            step()
            start = server.get("/api/start")
            assert start["state"] == "wrong" and says in start["wrong"]
            assert json.loads(server.ask("POST", "/api/view", {})[2])["error"]
        shutil.rmtree(root)
        data.make(root, videos=0)
        start = server.get("/api/start")
        assert start["state"] == "ready" and start["clips"] == 0 and "no clips" in start["empty"]
        assert start["overview"]["videos"] == {"failed": 1}
        data.add(root, [0, 1])
        assert server.get("/api/start")["clips"] == 10
        shard = max((root / "clips").glob("part-*.parquet"), key=lambda path: path.stat().st_size)
        whole = shard.read_bytes()
        shard.write_bytes(whole[: len(whole) // 2])
        (root / "dataset.json").touch()
        assert server.get("/api/start")["state"] == "wrong"
        shard.unlink()
        (root / "dataset.json").touch()
        start = server.get("/api/start")  # half of a shard was never committed
        assert start["state"] == "ready" and start["clips"] == 0 and start["overview"]["videos"] == {"failed": 1}


def test_one_clip_and_its_film(served):
    filters = {"filters": [{"kind": "min", "column": "motion_score", "amount": 4}]}
    clip = served.post("/api/clip", {"clip": data.clip_id(1, 1), **filters})
    scores = {score["name"]: score for score in clip["scores"]}
    motion = scores["motion_score"]  # 0..4, 2..5, 4..8, 6..10: of 19 values 4 lie below 3, and 2 are 3
    assert motion["value"] == 3.0 and motion["standing"] == pytest.approx(5 / 19)
    assert motion["formula"] and motion["unit"].startswith("percent") and scores["aesthetic_score"]["value"] is None
    assert (clip["kept"], clip["badges"]) == (False, [[0, False]])
    merged = next(caption for caption in clip["captions"] if caption["name"] == "caption_merged")
    assert merged["text"] == "a dog, clip 1" and merged["similarity"] == pytest.approx(0.1)
    assert clip["facts"]["codec"] == "h264" and clip["stills"] == ["first", "middle", "last"]
    lone = served.post("/api/clip", {"clip": data.clip_id(1, 4), **filters})
    assert lone["errors"] == [["motion", "ValueError: <b>no flow</b>"]] and lone["badges"] == [[0, True]]
    film = served.post("/api/film", {"clip": data.clip_id(1, 1), **filters})
    assert [c["kept"] for c in film["clips"]] == [False, False, True, True, False]
    assert film["transitions"] == [{"start": 2.4, "end": 2.4, "kind": "cut"}] and film["end"] == 4.8
    (lane,) = film["lanes"]
    assert lane["name"] == "motion" and lane["unit"] == "percent of the shorter side per second"
    assert lane["times"][:2] == [0.5, 1.0] and lane["values"] == [float(k) for k in range(8)]


def test_clips_like_this_one(served):
    asked = {"page": {"show": "all", "sort": "like", "limit": 5, "find": {"like": data.clip_id(2, 3)}}}
    rows = served.post("/api/view", asked)["grid"]["rows"]
    assert rows[0]["id"] == data.clip_id(2, 3) and rows[0]["value"] == pytest.approx(1.0, abs=1e-6)
    assert {row["id"][-8:] for row in rows[:3]} == {data.clip_id(0, 3)[-8:]}
    served.post("/api/view", {"page": {"find": {"like": "nothing"}}}, status=404)


def test_the_clips_bytes_are_its_frames(served):
    import av

    data_ = served.ask("GET", f"/api/video?clip={data.clip_id(3, 2)}")[2]
    with av.open(io.BytesIO(data_)) as clip:
        assert len(list(clip.decode(video=0))) == data.CLIP


def test_a_source_that_is_gone_says_so(tmp_path):
    root = data.make(tmp_path / "annotated", videos=1)
    (root / "src" / data.HOSTILE_NAME).unlink()
    with serving(root, tmp_path / "cache") as server:
        status, _, body = server.ask("GET", f"/api/video?clip={data.clip_id(0, 0)}")
        assert status == 422 and "No such file" in json.loads(body)["error"]


def test_the_cache_is_bounded(tmp_path):
    cache = ClipCache(tmp_path / "cache", most=2500)
    made = []
    for number in range(5):
        path = cache.get([number], lambda n=number: made.append(n) or b"x" * 1000)
        assert path.read_bytes() == b"x" * 1000 and path.parent == tmp_path / "cache"
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 2500
    assert cache.get([4], lambda: made.append("again")).exists() and made == [0, 1, 2, 3, 4]

    def refuses():
        raise MediaError("no")

    with pytest.raises(MediaError):
        cache.get([9], refuses)
    assert cache.get([9], lambda: b"now").read_bytes() == b"now"


def test_report(annotated, tmp_path):
    out = write_report(annotated, tmp_path / "report.html")
    text = out.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html"]
    assert (
        "<script" not in text
        and " src=x" not in text.replace("&lt;img src=x", "")
        and "http" not in text.split("<body>")[1]
    )
    assert "default-src 'none'" in text and "data:image/jpeg;base64," in text
    assert "&lt;/script&gt;&lt;img src=x" in text  # the failure's reason, as text
    for part in ("20</em>", "motion_score ≥ 2", "winnow select", "What the job did", "decode", "160 × 96"):
        assert part in text.replace(" <i>", "</em>"), part
    with pytest.raises(ReportError, match=r"no dataset\.json"):
        write_report(tmp_path, tmp_path / "no.html")
    assert not (tmp_path / "no.html").exists()


def test_stills_of_a_report_are_made_anew():
    from pipelines.inspector.report.report import thumbnail

    assert thumbnail(b"<script>alert(1)</script>") == ""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((500, 900, 3), np.uint8)).save(buffer, "JPEG")
    assert 0 < len(thumbnail(buffer.getvalue() + b"<script>")) < 3000


def test_a_video_without_clips_is_shown(tmp_path):
    root = data.make(tmp_path / "annotated", videos=0)
    writer = Writer(root, TABLES, models={})
    writer.add(Unit(Video(str(Path("/nothing") / "a.mp4"), "e" * 32), seconds={"decode": 1.0}), stages=["shots"])
    writer.flush()
    assert "no clips" in write_report(root, tmp_path / "report.html").read_text()
