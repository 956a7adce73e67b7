"""`winnow plan`: machines as text, rates that are known answers, what bounds them, and times of a dataset."""

import json
import math

import pytest
from typer.testing import CliRunner

from curate.base.files import write_json
from curate.base.store import store_of
from curate.clip import Clip, Unit, Video
from pipelines.annotation.pools import Node
from pipelines.annotation.stages import TABLES
from pipelines.capacity.nodes import NodesError, parse_nodes, text_of
from pipelines.capacity.plan import plan
from pipelines.capacity.rates import Footage, decode_seconds
from pipelines.cli.app import app
from pipelines.config import load
from pipelines.dataset.dataset import FORMAT, Writer
from pipelines.dataset.shards import open_for_writing

CPU_ONLY = [Node(64, 0, 256e9, 10)]


def test_machines_as_text():
    assert parse_nodes("4x(16 CPU, 8 GPU)") == [Node(16, 8, math.inf, 4)]
    assert parse_nodes("4x(16 CPU, 8 GPU, 256 GB)") == [Node(16, 8, 256e9, 4)]
    two = parse_nodes("2 x (64 CPUs, 8 GPU of 80 GB, 1 TB) + 10x(64 CPU, 256 GB)+8 cpu")
    assert two == [Node(64, 8, 1e12, 2, 80.0), Node(64, 0, 256e9, 10), Node(8)]
    assert parse_nodes(" + ".join(text_of(node) for node in two)) == two
    for wrong, part in (
        ("many", "many"),
        ("4x(16 CPU, 8 TPU)", "8 TPU"),
        ("4x(8 GPU)", "1 CPU"),
        ("", "kind of machine"),
    ):
        with pytest.raises(NodesError, match=part):
            parse_nodes(wrong)


def test_the_rate_is_that_of_the_cores_where_all_stages_run_on_cpus():
    config, footage = load("world"), Footage(1080, 360.0)
    made = plan(config, CPU_ONLY, footage)
    (share,) = made.shares
    assert decode_seconds(360) == pytest.approx(0.061, abs=1e-3) and decode_seconds(1080) == pytest.approx(
        0.090, abs=1e-3
    )
    seconds = decode_seconds(1080) + 0.1 * (0.3 + 0.01)  # a clip in 10 s: RapidOCR and the measured facts
    assert share.workers_max == 640 and made.rate == pytest.approx(640 / seconds)
    assert plan(config, CPU_ONLY, Footage(360, 360.0)).rate > 1.2 * made.rate
    small = plan(config, [Node(64, 0, 20e9, 10)], footage)
    assert small.shares[0].workers_max == 100 and "by memory" in small.bounds[0][0]
    assert small.helps[0][0] in ("twice the memory", "twice the machines") and small.helps[0][1] == pytest.approx(
        2, rel=0.2
    )


def test_a_hundred_nodes_with_the_papers_models():
    """The plan that the documentation shows."""
    nodes = parse_nodes("50x(64 CPU, 8 GPU of 80 GB, 1 TB) + 50x(64 CPU, 256 GB)")
    made = plan(load("cluster-gpu"), nodes, Footage())
    cpu, gpu = made.shares
    assert gpu.workers_max == 400 and gpu.gpus == 1 and cpu.workers_max <= 6400
    assert made.rate == min(limit for _, limit in made.bounds) and made.bounds[0][1] <= made.bounds[1][1]
    assert any("assumed" in text for text in made.rates.assumed)
    craft = plan(load("cluster-gpu", ["text={kind: easyocr}"]), nodes, Footage())
    assert "CPU" in craft.bounds[0][0] and any("rapidocr" in change for change, _ in craft.helps)
    assert craft.rate < 0.8 * made.rate
    idle = plan(load("svd"), nodes, Footage())
    assert any("execution.gpus is 0" in note for note in idle.notes)


def test_the_times_of_a_dataset_go_before_the_declared_ones(tmp_path):
    write_json(tmp_path / "dataset.json", {"format": FORMAT, "config": {}, "models": {}})
    open_for_writing(store_of(tmp_path), TABLES)
    writer = Writer(tmp_path, TABLES, models={})
    seconds = {"decode": 50.0, "text": 100.0, "appearance": 25.0, "captions": 20.0, "similarity": 5.0}
    facts = {"duration": 100.0, "footage": 100.0, "height": 720}
    clips = [Clip(at, at + 10, 0.0, 0.5, 0.0, 9.0) for at in range(5)]
    writer.add(Unit(Video("/v/a.mp4", "a" * 16), facts=facts, clips=clips, seconds=seconds), stages=["shots"])
    writer.add(Unit(Video("/v/b.mp4", "b" * 16)).fail("no video stream"), stages=["shots"])
    writer.flush()
    made = plan(load("quickstart"), CPU_ONLY, Footage(), str(tmp_path))
    assert made.rates.seconds() == [pytest.approx(2.0)] and made.rate == pytest.approx(640 / 2.0)
    assert made.footage == Footage(720, pytest.approx(180.0))
    on_gpus = plan(load("svd", ["execution.gpus=1"]), [Node(64, 8, 1e12)], Footage(), str(tmp_path))
    cpu, gpu = on_gpus.rates.pools
    assert {cost.name: cost.cpu for cost in cpu}["text"] == pytest.approx(1.0)  # decode and text as they were measured
    assert {cost.source for cost in gpu} >= {"assumed"}  # the dataset's run had no GPU


def test_the_command(tmp_path):
    run = CliRunner().invoke
    text = run(app, ["plan", "world", "--nodes", "10x(64 CPU, 256 GB)", "--hours", "10000"])
    assert (
        text.exit_code == 0
        and "hours of footage an hour; 10,000 hours take" in text.output
        and "bounded by" in text.output
    )
    found = json.loads(run(app, ["plan", "cluster-gpu", "--nodes", "4x(16 CPU, 8 GPU)", "--json"]).output)
    assert found["rate"] > 0 and found["pools"][1]["gpu"] and found["nodes"][0]["memory"] is None
    wrong = run(app, ["plan", "world", "--nodes", "4x(16 TPU)"])
    assert wrong.exit_code == 2 and "16 TPU" in wrong.output
    no_gpu = run(app, ["plan", "cluster-gpu", "--nodes", "4x(16 CPU)"])
    assert no_gpu.exit_code == 2 and "sees no GPU" in no_gpu.output
    assert run(app, ["plan", "world"]).exit_code == 0  # this machine
