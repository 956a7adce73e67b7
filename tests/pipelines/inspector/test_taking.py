"""What the page hands out is what it showed: the command, run, gives those clips; so does the YAML, and the button."""

import os
import shlex
import time

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from curate.filters import Filter, filters_from_options, parse_filters
from curate.selection import select
from pipelines.cli import app
from pipelines.dataset import Dataset
from pipelines.inspector import taking
from tests.pipelines.inspector import data
from tests.pipelines.inspector.conftest import serving

FILTERS = [
    {"kind": "drop_top", "column": "technical_quality", "amount": 12.5},
    {"kind": "min", "column": "motion_score", "amount": 1.05},
    {"kind": "where", "sql": "caption_merged LIKE '%dog%' OR\n end_time - start_time > 0.5 -- \"quoted\" $HOME `x`"},
]


def ids(folder):
    return sorted(
        i
        for path in (folder / "data").iterdir()
        for i in pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist()
    )


def shown(server, filters):
    rows = server.post("/api/view", {"filters": filters, "page": {"limit": 240}})["grid"]["rows"]
    return sorted(row["id"] for row in rows)


def run(command):
    words = shlex.split(command)
    assert words[0] == "winnow"
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """The card's plots take longest, and say nothing here."""
    monkeypatch.setattr("pipelines.card.plot_scores", lambda *_: [])
    monkeypatch.setattr("pipelines.card.contact_sheet", lambda *_: False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taking it's")
    data.make(folder / "annotated")
    with serving(folder / "annotated", folder / "cache") as server:
        yield folder, server


def test_the_command_gives_the_clips_of_the_page(place):
    folder, server = place
    made = server.post("/api/take", {"filters": FILTERS, "name": "by command"})
    run(made["command"])
    assert ids(folder / "by command") == shown(server, FILTERS) and 0 < len(ids(folder / "by command")) < 20
    chosen = select(Dataset(folder / "annotated").clips_sql, parse_filters(yaml.safe_load(made["yaml"])["selection"]))
    assert chosen.kept_ids().to_pylist() == shown(server, FILTERS)
    assert chosen.steps[0].name.startswith("drop_top technical_quality=12.5%")


def test_run_from_the_page(place):
    folder, server = place
    assert server.post("/api/select", {"filters": FILTERS, "name": "by-button"})["state"] == "running"
    end = time.monotonic() + 60
    while (now := server.get("/api/select"))["state"] == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert now["state"] == "done" and now["clips"] == len(shown(server, FILTERS)), now
    assert ids(folder / "by-button") == shown(server, FILTERS)
    before = sorted(os.listdir(folder)), sorted(os.listdir(folder.parent))
    for name in ("../out", "a/b", "", ".hidden", "annotated", "x" * 65, "-o", "a\n"):
        server.post("/api/select", {"filters": FILTERS, "name": name}, status=422)
    assert (sorted(os.listdir(folder)), sorted(os.listdir(folder.parent))) == before


def test_a_curated_dataset_and_its_command(place):
    folder, server = place
    made = server.post("/api/take", {"filters": FILTERS[1:2], "name": "first"})
    run(made["command"])
    with serving(folder / "first", folder / "cache") as curated:
        start = curated.get("/api/start")
        assert start["kind"] == "curated" and start["clips"] == len(ids(folder / "first")) and not start["filters"]
        assert start["overview"]["made"]["funnel"][0]["filter"] == "min motion_score=1.05"
        clip = ids(folder / "first")[0]
        assert curated.ask("GET", f"/api/video?clip={clip}")[2][4:8] == b"ftyp"
        assert curated.ask("GET", f"/api/still?clip={clip}")[2][:2] == b"\xff\xd8"
        assert curated.ask("GET", f"/api/still?clip={clip}&which=first")[0] == 404
        assert curated.post("/api/film", {"clip": clip})["clips"]
        filters = [{"kind": "drop_top", "column": "motion_score", "amount": 30}]
        taken = curated.post("/api/take", {"filters": filters, "name": "second"})
        run(taken["command"])
        assert ids(folder / "second") == shown(curated, filters) and len(ids(folder / "second")) < start["clips"]


def test_numbers_read_back_as_they_were():
    for amount in (0.1, 1 / 3, 1e-7, 123456789.125, 25.0, 99.95):
        chosen = Filter("min", "a", amount)
        words = taking.arguments("d", "o", [chosen])
        assert filters_from_options(minimum=[words[-1]]) == [chosen]
    part = Filter("drop_bottom", "a", 100 / 3)
    assert filters_from_options(drop_bottom=[taking.arguments("d", "o", [part])[-1]]) == [part]
    assert parse_filters(yaml.safe_load(taking.as_yaml([part, chosen]))["selection"]) == [part, chosen]
    assert taking.arguments("d", "o", [])[-2:] == ["--preset", "none"]
    assert yaml.safe_load(taking.as_yaml([])) == {"selection": "none"}


def test_labels_in_the_command(place):
    folder, server = place
    for clip in (data.clip_id(1, 2), data.clip_id(3, 0)):
        server.post("/api/label", {"clip": clip, "label": "good"})
    made = server.post("/api/take", {"filters": [{"kind": "where", "sql": "label = 'good'"}], "name": "labelled"})
    run(made["command"])
    assert ids(folder / "labelled") == [data.clip_id(1, 2), data.clip_id(3, 0)]
    server.post("/api/label", {"clip": data.clip_id(3, 0), "label": None})
    words = shlex.split(made["command"])[1:]
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2  # the same words keep other clips now: refused, not mixed
