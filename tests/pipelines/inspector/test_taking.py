"""What the page hands out is what it showed: the command, run, gives those clips; so does the YAML, and the button."""

import json
import os
import shlex
import shutil
import time

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from curate.selection.filters import Filter, filters_from_options, parse_filters
from curate.selection.selection import select
from pipelines.cli.app import app
from pipelines.dataset import labels
from pipelines.dataset.dataset import Dataset
from pipelines.inspector.data.inspected import labels_root
from pipelines.inspector.panels.take import taking
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
    """The card's plots take longest, and show nothing here."""
    monkeypatch.setattr("pipelines.curated.card.card.plot_scores", lambda *_: [])
    monkeypatch.setattr("pipelines.curated.card.card.contact_sheet", lambda *_: False)


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
        film = curated.post("/api/film", {"clip": clip})
        assert film["clips"] and [lane["name"] for lane in film["lanes"]] == ["motion of clips"]
        assert film["lanes"][0]["values"] == [
            2.0,
            2.0,
            3.0,
            3.0,
            4.0,
            4.0,
        ]  # of the clips 2, 3 and 4 of the first video
        filters = [{"kind": "drop_top", "column": "motion_score", "amount": 30}]
        taken = curated.post("/api/take", {"filters": filters, "name": "second"})
        run(taken["command"])
        assert ids(folder / "second") == shown(curated, filters) and len(ids(folder / "second")) < start["clips"]


def test_a_filter_that_cannot_be_applied_is_not_taken_away(place):
    folder, server = place
    filters = [FILTERS[1], {"kind": "where", "sql": "motion_scor > 2; 'x"}, {"kind": "where", "sql": "motion_scor > 2"}]
    made = server.post("/api/take", {"filters": filters, "name": "part"})
    assert len(made["left_out"]) == 2 and "did you mean motion_score" in made["left_out"][1]
    mark = "# without 2 filters of the page that cannot be applied\n"  # nothing of the filters: shells run comments
    whole = server.post("/api/take", {"filters": filters[:1], "name": "part"})
    assert (made["command"], made["yaml"]) == (mark + whole["command"], mark + whole["yaml"])
    assert not whole["left_out"] and whole["command"].startswith("winnow select ")
    refused = server.post("/api/select", {"filters": filters[::2], "name": "part"}, status=422)["error"]
    assert "did you mean motion_score" in refused and "turn it off" in refused and not (folder / "part").exists()


def test_labels_of_a_curated_dataset(place):
    """They lie where select looks for them, or what needs them is not taken away."""
    folder, _ = place
    root = shutil.copytree(folder / "annotated", folder / "whole")
    run(taking.command(str(root), str(folder / "part"), [Filter("min", "motion_score", 6)]))
    good, asked = ids(folder / "part")[0], {"filters": [{"kind": "where", "sql": "label = 'good'"}], "name": "best"}
    with serving(folder / "part", folder / "cache") as server:
        server.post("/api/label", {"clip": good, "label": "good"})
        assert labels.read(root) == {good: labels.Label("good", None)} and not (folder / "part" / labels.NAME).exists()
        assert shown(server, asked["filters"]) == [good] and not server.session.changed
        taken = parse_filters(yaml.safe_load(server.post("/api/take", asked)["yaml"])["selection"])
        assert len(taken) == 2 and select(Dataset(root).labelled_sql, taken).kept_ids().to_pylist() == [good]
        labels.append(root, ids(folder / "part")[1], "good", None)  # by the annotated dataset's own page
        assert server.get("/api/changes")["changed"] and server.get("/api/start")["state"] == "ready"
        assert shown(server, asked["filters"]) == ids(folder / "part")[:2]
    root.rename(folder / "away")
    with serving(folder / "part", folder / "cache") as server:
        server.post("/api/label", {"clip": good, "label": "good"})
        assert shown(server, asked["filters"]) == [good]
        for path in ("/api/take", "/api/select"):
            reason = server.post(path, asked, status=422)["error"]
            assert "does not see the labels in" in reason and f"{root} is not there or cannot be written" in reason
        plain = {"filters": [{"kind": "where", "sql": "caption_merged <> 'label'"}]}
        assert "--where" in server.post("/api/take", plain)["command"]
        (folder / "away").rename(
            root
        )  # the labels given meanwhile are not lost, and the message names what to do with them
        assert server.get("/api/changes")["changed"] is False and labels_root(folder / "part") == str(folder / "part")
        assert f"append that file to {root / labels.NAME}" in server.post("/api/take", asked, status=422)["error"]


def test_a_dataset_recorded_by_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "selection.json").write_text(json.dumps({"dataset": {"path": "data"}}))
    monkeypatch.chdir(tmp_path)
    assert labels_root(tmp_path / "part") == str(tmp_path / "data")
    monkeypatch.chdir("/")
    assert labels_root(tmp_path / "part") == str(tmp_path / "part")


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
