"""The inspector on object storage: what it shows, what it reads for it, and that it follows a dataset that is compacted."""

import io
import json
import shutil
import threading
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

from curate.base.store import join, store_of
from curate.clip import Video
from curate.selection.filters import Filter
from curate.selection.selection import select
from pipelines.annotation.stages import TABLES
from pipelines.cli.app import app
from pipelines.config import load
from pipelines.curated.curated import CuratedRequest, make_curated
from pipelines.dataset import labels
from pipelines.dataset.dataset import Dataset, Writer
from pipelines.dataset.shards import sweep
from pipelines.inspector.report.report import write_report
from tests.pipelines.inspector import data
from tests.pipelines.inspector.conftest import serving


def upload(folder: Path, url: str) -> str:
    store = store_of(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            store.put(path.relative_to(folder).as_posix(), path.read_bytes())
    return url


@pytest.fixture
def curated(tmp_path):
    """Of 10 clips the 8 with a motion of at least 1."""
    root = data.make(tmp_path / "annotated", videos=2)
    config = load("quickstart", [])
    request = CuratedRequest.of(config, [Filter("min", "motion_score", 1.0)])
    make_curated(Dataset(root), request, tmp_path / "curated")
    return tmp_path / "curated"


def test_a_curated_dataset_in_a_bucket(curated, storage, tmp_path):
    url = upload(curated, f"{storage.bucket()}/sets/curated")
    with serving(curated, tmp_path / "here") as here, serving(url, tmp_path / "there") as there:
        one, two = here.get("/api/start"), there.get("/api/start")
        assert two["clips"] == 8 and two["name"] == "sets/curated" and two["path"] == url
        same = ("clips", "hours", "scores", "nothing", "captions", "overview", "kind")
        assert {name: one[name] for name in same} == {name: two[name] for name in same}
        clip = data.clip_id(1, 2)
        bytes_ = [server.ask("GET", f"/api/video?clip={clip}")[2] for server in (here, there)]
        assert bytes_[0] == bytes_[1] and len(bytes_[0]) > 500
        storage.reset()
        stills = [server.ask("GET", f"/api/still?clip={clip}")[2] for server in (here, there)]
        assert stills[0] == stills[1] and stills[0][:2] == b"\xff\xd8"
        asked = {"filters": [{"kind": "min", "column": "motion_score", "amount": 4}], "histograms": ["motion_score"]}
        views = [server.post("/api/view", asked) for server in (here, there)]
        assert views[0] == views[1] and views[0]["clips"] == 3
        assert storage.counts()["requests"] <= 3  # a filter reads nothing, a still no more than its columns
        taken = there.post("/api/take", {"filters": [], "name": "less"})
        assert taken["out"] == url.replace("curated", "less")
        token = there.ask("GET", "/api/start", Host="evil.example")
        assert token[0] == 400
    report = write_report(url, tmp_path / "report.html")
    assert "data:image/jpeg;base64," in Path(report).read_text()
    done = CliRunner().invoke(app, ["stats", url])
    assert done.exit_code == 0 and "8 clips" in done.output, done.output


def in_a_bucket(folder: Path, bucket: str) -> str:
    """Two videos and their dataset, all of it objects; what it was made from here is gone."""
    root, films = data.make(folder / "annotated", videos=0), store_of(join(bucket, "films"))
    writer = Writer(root, TABLES, models={})
    for number in range(2):
        unit = data.unit(root, number)
        name = f"film {number}.mp4"
        films.put(name, Path(unit.video.path).read_bytes())
        unit.video = Video(films.where(name), unit.video.video_id)
        unit.facts["version"] = films.head(name).version
        writer.add(unit, stages=["shots"])
    writer.flush()
    url = upload(root, join(bucket, "annotated"))
    shutil.rmtree(root)
    return url


def test_an_annotated_dataset_and_its_sources_in_a_bucket(storage, tmp_path):
    url = in_a_bucket(tmp_path, storage.bucket())
    clip = data.clip_id(1, 2)
    with serving(url, tmp_path / "cache") as server:
        start = server.get("/api/start")
        assert start["clips"] == 10 and start["overview"]["videos"]["ok"] == 2 and start["kind"] == "annotated"
        storage.reset()
        status, _, body = server.ask("GET", f"/api/video?clip={clip}")
        assert status == 200, body
        with av.open(io.BytesIO(body)) as found:
            assert len(list(found.decode(video=0))) == data.CLIP
        shown = server.post("/api/clip", {"clip": clip})
        assert shown["facts"]["codec"] == "h264" and shown["path"].startswith("s3://")
        assert len(server.post("/api/film", {"clip": clip})["lanes"]) == 1
        like = server.post("/api/view", {"page": {"find": {"like": clip}}})["grid"]["rows"]
        assert like[0]["id"] == clip
        where = {"filters": [{"kind": "where", "sql": "image_embedding[1] > 0.5 AND motion_score >= 0"}]}
        assert server.post("/api/view", where)["clips"] == 2
        server.post("/api/label", {"clip": clip, "label": "good"})
        assert not server.session.changed and labels.read(url)[clip].label == "good"
        kept = select(Dataset(url).labelled_sql, [Filter("where", sql="label = 'good'")])
        assert kept.kept_ids().to_pylist() == [clip]
        store_of(url).delete("dataset.json")
        server.session._looked = -1e9, ""
        assert "no dataset.json" in server.get("/api/start")["wrong"]


@pytest.mark.parametrize("kind", ["folder", "memory", "s3"])
def test_labels_on_any_store(kind, tmp_path, request):
    places = {"folder": lambda: str(tmp_path), "memory": lambda: f"memory://labels-{tmp_path.name}/set"}
    place = places[kind]() if kind in places else request.getfixturevalue("storage").bucket()
    assert labels.read(place) == {} and labels.digest(place) == labels.digest(place)

    def give(who):
        for number in range(5):
            labels.append(place, f"{who}-{number}", "good", None)

    writers = [threading.Thread(target=give, args=(who,)) for who in "xyz"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    labels.append(place, "x-1", "bad", "on a second look")
    labels.append(place, "x-2", None, None)
    found = labels.read(place)
    assert len(found) == 14 and found["x-1"] == labels.Label("bad", "on a second look")
    assert len(store_of(place).read(labels.NAME).splitlines()) == 17


def test_labels_that_no_longer_count_are_left_out_of_a_long_object(monkeypatch):
    monkeypatch.setattr(labels, "LONG", 300)
    place = "memory://long-labels/set"
    for number in range(30):
        labels.append(place, f"c{number % 3}", "good" if number % 2 else "bad", None)
    lines = [json.loads(line) for line in store_of(place).read(labels.NAME).splitlines()]
    assert len(lines) < 8 and len(labels.read(place)) == 3 and lines[-1]["clip_id"] == "c2"


def test_many_labels_are_not_a_text_of_sql(tmp_path):
    import duckdb

    for number in range(300):
        labels.append(tmp_path, f"c{number}", "good", "x" * 100)
    sql = labels.labelled("(SELECT 'c7' AS clip_id UNION ALL SELECT 'other')", tmp_path)
    assert len(sql) < 300
    assert sorted(duckdb.sql(f"SELECT clip_id, label, length(label_note) FROM {sql}").fetchall()) == [
        ("c7", "good", 100), ("other", None, None),
    ]  # fmt: skip


def test_shards_that_are_replaced_under_the_page(tmp_path):
    """As by `winnow compact`: the same rows in other files. Whatever is asked for is answered, from the new ones."""
    root = data.make(tmp_path / "annotated", videos=2)
    clip = data.clip_id(1, 1)
    with serving(root, tmp_path / "cache") as server:
        version = server.get("/api/start")["version"]
        for number, path in enumerate(("clip", "film", "still", "view", "where")):
            before = {file.name for file in (root / "clips").iterdir()}
            writer = Writer(root, TABLES, models={})
            for video in range(2):
                writer.add(data.unit(root, video), stages=["shots"], generation=number + 1)
            writer.flush()
            sweep(store_of(root))  # what was replaced
            assert before & {file.name for file in (root / "clips").iterdir()} < before
            answers = {
                "clip": lambda: server.post("/api/clip", {"clip": clip})["facts"]["codec"] == "h264",
                "film": lambda: len(server.post("/api/film", {"clip": clip})["transitions"]) == 1,
                "still": lambda: server.ask("GET", f"/api/still?clip={clip}&which=last")[0] == 200,
                "view": lambda: server.post("/api/view", {"page": {"find": {"like": clip}}})["grid"]["rows"][0]["id"] == clip,
                "where": lambda: server.post(
                    "/api/view", {"filters": [{"kind": "where", "sql": "image_embedding[1] >= 0"}]}
                )["clips"] == 10,
            }  # fmt: skip
            assert answers[path](), path
            now = server.get("/api/changes")
            if path == "still":  # its shard is still open here
                assert now["changed"] and server.get("/api/start")["clips"] == 10
            else:
                assert now == {"changed": False, "state": "ready", "version": version + number + 1}


def test_a_bucket_is_not_listed_at_every_question(curated, storage, tmp_path):
    url = upload(curated, join(storage.bucket(), "curated"))
    with serving(url, tmp_path / "cache") as server:
        server.session._looked = server.session._looked[0] + 60, server.session._looked[1]
        storage.reset()
        for _ in range(5):
            assert not server.get("/api/changes")["changed"]
        assert not storage.counts()["requests"]
        server.session._looked = -1e9, ""
        labels.append(server.session.loaded.inspected.labels_root, data.clip_id(0, 1), "good", None)
        assert server.get("/api/changes")["changed"]
