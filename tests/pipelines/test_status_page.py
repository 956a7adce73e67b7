"""`winnow status`, from another process or machine: alive, silent or ended, and what is waited for."""

import io
import json
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from curate.base.files import write_json
from curate.base.store import store_of
from curate.clip import Clip, Unit, Video
from pipelines.annotation.annotate import annotate
from pipelines.annotation.pools import Place
from pipelines.annotation.stages import TABLES
from pipelines.cli.app import app
from pipelines.cli.jobs.watching import page
from pipelines.config import load
from pipelines.dataset.dataset import FORMAT, DatasetError, Writer
from pipelines.dataset.shards import open_for_writing
from pipelines.status.events import read_events
from pipelines.status.reading import report
from pipelines.status.runlog import STATUS, RunLog

OTHER = {"host": "node7", "pid": 1, "machine": "another"}


def state_of(root, **changes):
    """A state as a driver on another machine wrote it."""
    log = RunLog(None, "r1")
    log.already(12)
    log.planned(10, 3000.0, final=True)
    for at in range(3):
        log.started(f"u{at}", f"/films/{at}.mp4", "node7:41", pool="shots to text", footage=300.0, limit=3060.0)
    log.finished("u0", "ok", footage=300.0, clips=40, seconds={"decode": 30.0, "text": 90.0})
    log.finished("u1", "failed", error="no video stream")
    log.workers("shots to text", 3, 8, "1 CPU each")
    state = log.state() | {"holder": OTHER} | changes
    store_of(root).replace(STATUS, json.dumps(state).encode())
    return state


def text_of(found):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(page(found))
    return console.export_text()


def test_a_run_on_another_machine_is_told_from_its_state(tmp_path):
    state_of(tmp_path)
    found = report(str(tmp_path), sleep=pytest.fail)
    assert found.life == "running" and found.waits_for == []
    text = text_of(found)
    for part in (
        "running",
        "node7, process 1",
        "2 of 10 units",
        "1 ok, 1 failed",
        "12 from earlier runs",
        "left",
        "no video stream",
    ):
        assert part in text, part
    assert "20%" in text and "1 CPU each" in text and "51:00" in text


def test_a_job_without_progress_says_what_it_waits_for(tmp_path):
    now = time.time()
    state_of(tmp_path, time=now, moved=now - 300)
    assert report(str(tmp_path)).waits_for == [
        "5 of 8 workers of shots to text (1 CPU each)",
        "/films/2.mp4, for 0 s of at most 3060 s in shots to text",
    ]
    state_of(tmp_path, time=now, moved=now - 300, pools={}, running={"units": 0, "longest": []})
    assert report(str(tmp_path)).waits_for == ["nothing that is known"]
    planned = {"units": 0, "footage": 0.0, "final": False, "already": 0}
    state_of(tmp_path, time=now, moved=now - 300, pools={}, running={"units": 0, "longest": []}, planned=planned)
    assert report(str(tmp_path)).waits_for == ["planning: files are found and opened"]
    state_of(tmp_path, time=now, moved=now, waiting={"for": "a GPU: 0 of 8 are free", "since": now})
    assert report(str(tmp_path)).waits_for[0] == "a GPU: 0 of 8 are free"
    assert "waits for a GPU: 0 of 8 are free" in text_of(report(str(tmp_path)))


def test_a_state_that_no_longer_changes_is_no_sign_of_life(tmp_path):
    state = state_of(tmp_path)
    old = time.time() - 1000
    os.utime(tmp_path / STATUS, (old, old))
    waits = []
    found = report(str(tmp_path), sleep=waits.append)
    assert found.life == "silent" and found.silence == pytest.approx(1015, abs=10) and waits == [15.0]
    assert "no sign of life for 16:" in text_of(found)

    def beats(seconds):  # its clock, or that of the store, is 1000 s behind ours; it lives
        state_of(tmp_path, beats=state["beats"] + 2)
        os.utime(tmp_path / STATUS, (old, old))

    assert report(str(tmp_path), sleep=beats).life == "running"
    os.utime(tmp_path / STATUS, (old + 2000, old + 2000))  # ahead of ours: the same
    assert report(str(tmp_path), sleep=waits.append).life == "silent"

    def ends(seconds):
        state_of(tmp_path, state="finished", beats=state["beats"] + 2)

    state_of(tmp_path)
    os.utime(tmp_path / STATUS, (old, old))
    assert report(str(tmp_path), sleep=ends).life == "ended"


def test_a_killed_driver_of_this_machine_is_seen_at_once(tmp_path):
    code = """
import sys, time
from curate.base.store import store_of
from pipelines.status.runlog import RunLog
log = RunLog(store_of(sys.argv[1]), "r1", every=0.1)
print("there", flush=True)
time.sleep(60)
"""
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        driver.stdout.readline()
        deadline = time.monotonic() + 20
        while not (tmp_path / STATUS).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert report(str(tmp_path), sleep=pytest.fail).life == "running"
    finally:
        driver.kill()
        driver.wait()
    found = report(str(tmp_path), sleep=pytest.fail)
    assert (found.life, found.gone) == ("silent", True)
    assert "its process is gone" in text_of(found) and "goes on where it was" in text_of(found)
    assert CliRunner().invoke(app, ["status", str(tmp_path)]).exit_code == 1


def recorded(root):
    write_json(root / "dataset.json", {"format": FORMAT, "config": {}, "models": {}})
    open_for_writing(store_of(root), TABLES)
    writer = Writer(root, TABLES, models={})
    for at in range(3):
        clips = [Clip(0, 10, 0.0, 0.5, 0.0, 9.0)] * (at + 1)
        facts = {"duration": 4.5, "fps": 20.0}
        made = Unit(Video(f"/v/{at}.mp4", f"{at:016x}"), facts=facts, clips=clips, seconds={"decode": 1.0 + at})
        writer.add(made.fail("no video stream") if at == 2 else made, stages=["shots"])
    writer.flush()


def test_a_dataset_without_a_known_run_is_told_from_its_tables(tmp_path):
    recorded(tmp_path)
    found = report(str(tmp_path))
    assert found.life == "recorded" and found.state["done"] == {"ok": 2, "failed": 1}
    assert found.state["clips"] == 3 and found.state["stages"] == {"decode": 6.0}
    assert found.state["reasons"] == {"no video stream": 1} and found.state["slowest"][0]["path"] == "/v/2.mp4"
    text = text_of(found)
    assert "no run is known" in text and "2 ok, 1 failed · 3 clips" in text
    with pytest.raises(DatasetError, match="not a Winnow dataset"):
        report(str(tmp_path / "nothing"))


def test_the_command_prints_a_page_or_json_and_watches_to_the_end(tmp_path):
    log = RunLog(store_of(tmp_path), "r1", every=0.05)
    log.planned(1, 10.0, final=True)
    log.finished("u", "ok", path="/films/a.mp4", footage=10.0)
    log.close()
    found = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert found.exit_code == 0 and "finished" in found.output and "100%" in found.output
    found = CliRunner().invoke(app, ["status", str(tmp_path), "--json"])
    assert json.loads(found.output)["status"]["done"] == {"ok": 1}
    found = CliRunner().invoke(app, ["status", str(tmp_path), "--watch"])
    assert found.exit_code == 0
    state_of(tmp_path, state="stopped", reason="6 units in a row were lost alike")
    found = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert found.exit_code == 1 and "6 units in a row" in found.output
    assert CliRunner().invoke(app, ["status", str(tmp_path / "nothing")]).exit_code == 2


def test_a_run_in_a_bucket_is_told_from_another_machine(storage):
    place = storage.bucket() + "/data"
    log = RunLog(store_of(place), "r1", every=0.1)
    log.planned(1, 10.0, final=True)
    deadline = time.monotonic() + 20
    while not (store_of(place).exists(STATUS) and report(place).state["planned"]["units"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert report(place).life == "running"
    log.close()
    assert report(place).life == "ended" and [event["event"] for event in read_events(store_of(place), "r1")] == [
        "began", "planned", "ended"
    ]  # fmt: skip


def test_a_job_tells_what_it_did_also_of_what_planning_failed(small_footage, tmp_path, watcher):
    annotate(
        [str(small_footage)], tmp_path / "d", load("quickstart"), place=Place(), watcher=watcher, stages=["motion"]
    )
    found = report(str(tmp_path / "d"))
    assert found.life == "ended" and found.state["state"] == "finished"
    assert found.state["done"] == {"ok": 3, "failed": 1, "duplicate": 1} and found.state["planned"]["units"] == 5
    assert (
        found.state["committed"] == 5 and found.state["left"] == 0 and "text.mp4" in found.state["failures"][0]["path"]
    )
    kinds = [event["event"] for event in read_events(store_of(tmp_path / "d"), found.state["run"])]
    assert kinds.count("unit") == 5 and kinds[-1] == "ended"
